"""Carotid B-mode images to records: regions of the far wall and patches of its interfaces.

    python -m data_prep.cimt --input=RAW --output=DATA

RAW is a folder in one of the layouts that the carotid readers know (``data_prep.readers``). The
splits train and validation hold patches, validation_roi and test whole regions.
"""

import dataclasses
import functools
import pathlib

from absl import flags

from data_prep import command, far_wall, shards
from data_prep.errors import UserError
from data_prep.readers import _carotid, of_kind
from data_prep.readers._carotid import Options, Source
from data_prep.readers._paths import require_inside

APP = "cimt"
PUBLIC_KEY = b"no person"
CLASSES = ("background", "lumen-intima", "media-adventitia")
EXTRAS = {
    "mm_per_pixel": "float",  # height of a pixel
    "mm_per_pixel_x": "float",  # and width
    "x": "float",  # of a patch's centre, of a region's first evaluated pixel
    "y": "float",
    "margin": "int",  # pixels of context on each side of what is evaluated; 0 for patches
    "li": "float_list",  # row of each interface in each evaluated column; empty for patches
    "ma": "float_list",
}
SPLITS = {
    "train": ("train", "patch"),
    "validation": ("validation", "patch"),
    "validation_roi": ("validation", "roi"),
    "test": ("test", "roi"),
}


def find(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Studies of a folder in whichever layout it has.

    Raises
    ------
    UserError
        If the folder is absent, has no known layout, or has two.
    """
    if not root.is_dir():
        raise UserError(f"--input={root} is not a folder.")
    require_inside(root.resolve(), "studies.csv")
    readers = of_kind("carotid")
    found = {name: reader.detect(root.resolve(), options) for name, reader in readers.items()}
    found = {name: sources for name, sources in found.items() if sources}
    if not found:
        looked = "; ".join(reader.LAYOUT for reader in readers.values())
        raise UserError(f"{root} holds no carotid study. Looked for: {looked}.")
    if len(found) > 1:
        raise UserError(
            f"{root} holds studies in more than one layout ({', '.join(found)}): "
            "give each a folder of its own."
        )
    return next(iter(found.values()))


def prepare(
    raw: pathlib.Path,
    output: pathlib.Path,
    *,
    settings: far_wall.Settings | None = None,
    choice: Options | None = None,
    options: command.Options | None = None,
) -> command.Prepared:
    """Raw studies to a dataset folder: what the command does, for other code.

    Parameters
    ----------
    raw, output : pathlib.Path
    settings : far_wall.Settings, optional
        How regions and patches are taken.
    choice : Options, optional
        What the files leave open.
    options : command.Options, optional
        The shared options, except the output. Without them the pseudonyms have a public key, which
        suits phantoms: no person stands behind them.

    Returns
    -------
    command.Prepared

    Raises
    ------
    UserError
        See :func:`find` and :func:`data_prep.command.prepare`.
    """
    settings, choice = settings or far_wall.Settings(), choice or Options()
    options = options or command.Options(output, key=PUBLIC_KEY)
    return command.prepare(
        shards.Layout(APP, CLASSES, EXTRAS, SPLITS),
        find(raw, choice),
        functools.partial(far_wall.prepare, settings=settings, seed=options.seed, key=options.key),
        {
            **dataclasses.asdict(settings),
            "margin": settings.margin,
            # Not the annotator, who may be called by name: another one means other files.
            **{name: getattr(choice, name) for name in ("points", "frame", "repeats")},
        },
        dataclasses.replace(options, output=output),
    )


def define_flags() -> None:
    """Define the flags of this command beside the shared ones."""
    default, choice = far_wall.Settings(), Options()
    command.define_flags()
    flags.DEFINE_integer(
        "patch",
        default.patch,
        "Side of a patch in pixels, odd. The paper does not give it; 33 pixels of a usual 0.06 mm "
        "show 2 mm: the whole wall and some of its surroundings.",
    )
    flags.DEFINE_integer(
        "band",
        default.band,
        "A pixel up to so many rows from an interface belongs to it. The paper does not give it; 1 "
        "was measured better than 2 on validation subjects.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "exclusion",
        default.exclusion,
        "Background lies at least so many rows from both interfaces. The paper's lies 'far from' "
        "them; 3 was measured better than 6, which let the maps spread over twice the wall.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "near_share",
        default.near_share,
        "Share of the background patches that lies close to an interface, where it must be told "
        "from it; the others lie anywhere.",
    )
    flags.DEFINE_integer("roi_width", default.roi_width, "Of a region, as in the paper.", 10)
    flags.DEFINE_integer("roi_height", default.roi_height, "Of a region, as in the paper.", 10)
    flags.DEFINE_integer(
        "rois_per_image", default.rois_per_image, "At most; 3 a video in the paper.", 1
    )
    flags.DEFINE_integer(
        "roi_shift",
        default.roi_shift,
        "A region lies up to so many rows above or below the wall's middle, at random, so that the "
        "place in a region does not give the answer away.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "patches_per_roi",
        default.patches_per_roi,
        "Of each class. 75 give about 7,000 training patches from 36 images; the paper took about "
        "460 a region.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "max_gap_mm",
        default.max_gap_mm,
        "Between points further apart the wall counts as not annotated: neither learnt nor scored.",
        lower_bound=0.0,
    )
    flags.DEFINE_string(
        "reader", choice.annotator, "CUBS: folder of the person or method whose interfaces count."
    )
    flags.DEFINE_enum(
        "points",
        choice.points,
        ["auto", "rows", "columns"],
        "Text files of points: x above y (rows) or beside y (columns). Default: by their shape.",
    )
    flags.DEFINE_integer("frame", choice.frame, "DICOM: frame of a sequence, from 0.", 0)
    flags.DEFINE_enum(
        "repeats",
        choice.repeats,
        _carotid.REPEATS,
        "Cyprus: one frame that is stored and annotated several times becomes one study, whose "
        "truth is the mean of the annotations (consensus), for they are no independent regions, "
        "and the paper's truth is the consensus of two experts; or a study each (separate).",
    )


def main() -> None:
    """Run the command with the parsed flags."""
    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(far_wall.Settings)]
    settings = far_wall.Settings(**{name: values[name].value for name in names})
    prepared = prepare(
        pathlib.Path(values.input),
        pathlib.Path(values.output),
        settings=settings,
        choice=Options(
            annotator=values.reader,
            points=values.points,
            frame=values.frame,
            repeats=values.repeats,
        ),
        options=command.options(),
    )
    print(command.summary(prepared))


if __name__ == "__main__":
    define_flags()
    command.run(main)
