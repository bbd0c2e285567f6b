"""Images of any origin beside tables: ``studies.csv`` names them, a table each holds the points.

``studies.csv`` has the columns ``image``, ``boundaries``, ``subject``, ``mm_per_pixel`` and, if
wanted, ``case`` (else the image's path) and ``mm_per_pixel_x`` (else pixels are square). Paths are
relative to the folder and may not leave it. A boundary table has the columns ``interface``
(lumen_intima or media_adventitia), ``x`` and ``y`` in pixels, pixel centres counted from 0.
"""

import csv
import pathlib

from data_prep.errors import UserError
from data_prep.readers import _carotid, _points
from data_prep.readers._carotid import CarotidStudy, Options, Source
from data_prep.readers._images import load_grey

KIND = "carotid"
LAYOUT = "studies.csv with the columns image, boundaries, subject, mm_per_pixel (any other source)"

MANIFEST = "studies.csv"
REQUIRED = ("image", "boundaries", "subject", "mm_per_pixel")


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Read the manifest.

    Raises
    ------
    UserError
        If it is unreadable or lacks a column.
    """
    del options
    manifest = root / MANIFEST
    if not manifest.is_file():
        return []
    try:
        table = _points.rows(manifest)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{manifest} is not a readable table: {error}.") from error
    missing = [name for name in REQUIRED if table and name not in table[0]]
    if missing:
        raise UserError(f"{manifest} lacks the columns {', '.join(missing)}: add them.")
    return [_source(root, manifest, row) for row in table]


def read(source: Source) -> CarotidStudy:
    """Read one study; :func:`data_prep.readers._carotid.make_study` says what is checked.

    Raises
    ------
    Unusable
        With the reason; a calibration that is given but is no number counts as absent.
    """
    _carotid.require(source)
    li, ma = _points.read_table(source.file("boundaries"))
    image, notes = load_grey(source.file("image"))
    down, along = (source.facts[name] for name in ("mm_per_pixel", "mm_per_pixel_x"))
    return _carotid.make_study(
        source,
        image,
        _carotid.number(down),
        li,
        ma,
        mm_per_pixel_x=_carotid.number(along or down),
        notes=notes,
    )


def _source(root: pathlib.Path, manifest: pathlib.Path, row: dict[str, str]) -> Source:
    files = {"manifest": manifest, "image": root / row["image"]}
    files["boundaries"] = root / row["boundaries"]
    problem = "" if row["subject"] else "no subject is given, so it cannot be kept in one split"
    return _carotid.source(
        __name__,
        root,
        row.get("case") or row["image"],
        row["subject"],
        files,
        facts={name: row.get(name, "") for name in ("mm_per_pixel", "mm_per_pixel_x")},
        problem=problem,
    )
