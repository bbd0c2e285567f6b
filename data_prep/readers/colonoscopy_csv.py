"""Frames of any origin that a table names: ``frames.csv``.

Columns ``image``, ``mask`` and ``case`` (the video or sequence); if wanted ``subject``, ``frame``,
``time_s``, ``label`` and ``split``. Paths are relative to the folder and may not leave it. An empty
mask is an unknown one; "none" says that the frame shows no lesion.
"""

import pathlib
from collections.abc import Iterator

from data_prep.readers import _colonoscopy_tables, _frames, tables
from data_prep.readers._colonoscopy import Frame, Options, Sampling, Source, Tally

KIND = "colonoscopy"
LAYOUT = "frames.csv with the columns image, mask, case (any other source)"

TABLE = "frames.csv"


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Read the table.

    Raises
    ------
    UserError
        See :func:`data_prep.readers._colonoscopy_tables.listed`.
    """
    del options
    table = tables.find(root, TABLE)
    return _colonoscopy_tables.listed(__name__, root, table, "case") if table else []


def frames(source: Source, sampling: Sampling, tally: Tally) -> Iterator[Frame]:
    """Read the frames of one case; see :func:`data_prep.readers._frames.stills`."""
    return _frames.stills(source, sampling, tally)
