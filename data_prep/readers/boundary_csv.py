"""Images of any origin beside tables: ``studies.csv`` names them, a table each holds the points.

``studies.csv`` has the columns ``image``, ``boundaries``, ``subject``, ``mm_per_pixel`` and, if
wanted, ``case`` (else the image's path) and ``mm_per_pixel_x`` (else pixels are square). Paths are
relative to the folder and may not leave it. A boundary table has the columns ``interface``
(lumen_intima or media_adventitia), ``x`` and ``y`` in pixels, pixel centres counted from 0.
"""

import pathlib

from data_prep.errors import UserError
from data_prep.readers import _carotid, _points, tables
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
        If it is unreadable or lacks a column, names a case twice, or gives one image to two
        subjects.
    """
    del options
    manifest = tables.find(root, MANIFEST)
    if manifest is None:
        return []
    table = tables.read(manifest).require(*REQUIRED)
    found = [_source(root, row) for row in table.rows]
    cases: dict[str, tables.Row] = {}
    images: dict[pathlib.Path, tables.Row] = {}
    for row, source in zip(table.rows, found, strict=True):
        known = cases.setdefault(source.name, row)
        if known is not row:
            raise UserError(f"{row.where} names {source.name}, as {known.where} does: keep one.")
        known = images.setdefault((root / row["image"]).resolve(), row)
        if known["subject"] != row["subject"]:
            raise UserError(
                f"{row.where} gives {row['image']} to another subject than {known.where}: an image "
                "belongs to one."
            )
    tables.require_distinct("subject", ((row["subject"], row.where) for row in table.rows))
    return found


def read(source: Source) -> CarotidStudy:
    """Read one study; :func:`data_prep.readers._carotid.make_study` says what is checked.

    Raises
    ------
    Unusable
        With the reason; a calibration that is given but is no number counts as absent.
    """
    _carotid.require(source)
    li, ma = _points.read_table(source.file("boundaries"))
    image, notes = load_grey(source.file("image"), is_drawn_on=True)
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


def _source(root: pathlib.Path, row: tables.Row) -> Source:
    files = {"manifest": row.table.path, "image": root / row["image"]}
    files["boundaries"] = root / row["boundaries"]
    subject = row.given("subject")
    problem = "" if subject else "no subject is given, so it cannot be kept in one split"
    return _carotid.source(
        __name__,
        root,
        row.get("case") or row["image"],
        subject,
        files,
        facts={name: row.get(name, "") for name in ("mm_per_pixel", "mm_per_pixel_x")},
        problem=problem,
    )
