"""CT pulmonary angiograms to records: candidate emboli, seen along and across their vessel.

    python -m data_prep.pe --input=RAW --output=DATA

RAW is a folder of DICOM series or of NIfTI, NRRD or MetaImage volumes with their reference standard
(``data_prep.readers``). The splits train and validation hold patches; train_unit, validation_unit
and test hold candidates, those of test with all the patches that their score is a mean over.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
from absl import flags

from data_prep import command, locks, shards, split_table, splits
from data_prep.errors import UserError
from data_prep.readers._images import Unusable
from data_prep.records import Example
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

APP = "pe"
PUBLIC_KEY = b"no person"
CLASSES = ("other", "embolus")
EXTRAS = {
    "x": "float",  # of the candidate, patient coordinates in mm (to the left, back, up)
    "y": "float",
    "z": "float",
    "width_mm": "float",  # of a patch; 0 where all widths are together
    "shift": "float",  # along the vessel, a share of the width
    "rotation": "float",  # about the vessel, in radians
    "views": "int",  # patches below one another in the image
    "features": "float_list",  # handcrafted, of a candidate; empty for patches
}
SPLITS = {
    "train": ("train", "patch"),
    "validation": ("validation", "patch"),
    "train_unit": ("train", "candidate"),
    "validation_unit": ("validation", "candidate"),
    "test": ("test", "unit"),
}
VIEWS = 45  # of a candidate: three widths, three shifts, five rotations
POINT_MM = 5.0  # a candidate so near to a point of the reference standard is that embolus


@dataclasses.dataclass(frozen=True)
class Settings:
    """How candidates and patches are taken.

    Attributes
    ----------
    patch : int
        Side of a patch in pixels.
    top_k : int
        Candidates a volume at most: large ones that blood encloses, first.
    patches_per_candidate : int
        Training patches drawn from the widths x shifts x rotations (45) of a candidate. Those of
        false candidates are dropped at random until both classes have equal shares.
    test_patches : int
        A test candidate's score is the mean over so many of its 45 patches, evenly spread; the
        paper takes all.
    match_mm : float
        A candidate so near to an embolus lies in it; 0: its location is in the embolus's own
        voxels. Each embolus is widened by itself, so that two close ones stay two.
    """

    patch: int = 64
    top_k: int = 300
    patches_per_candidate: int = 45
    test_patches: int = 45
    match_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.patch < 16:
            raise UserError(f"--patch must be at least 16: {self.patch}.")
        if self.top_k < 1:
            raise UserError(f"--top_k must be at least 1: {self.top_k}.")
        for name in ("patches_per_candidate", "test_patches"):
            if not 1 <= getattr(self, name) <= VIEWS:
                raise UserError(f"--{name} must be from 1 to {VIEWS}: {getattr(self, name)}.")


NO_STANDARD = (
    "it has no reference standard beside it, so nothing is known to learn: add NAME_label (or "
    "_mask, _seg, _lesions, _gt, _points), or a folder labels, masks, seg, segmentations, emboli, "
    "lesions, gt, rs or points"
)


def matches(points: np.ndarray, lesions, volume, reach_mm: float) -> np.ndarray:
    """Embolus in which each candidate lies.

    Parameters
    ----------
    points : ndarray of int, (n, 3)
        z, y, x of the candidates' locations.
    lesions : Lesions
        Of :mod:`data_prep.readers._lesions`.
    volume : Volume
    reach_mm : float

    Returns
    -------
    ndarray of int, (n,)
        Index of the nearest embolus within reach, from 0; -1: none.
    """
    from scipy import spatial

    if lesions.labels is not None and reach_mm <= 0:
        return lesions.labels[tuple(points.T)].astype(np.int64) - 1
    if lesions.labels is not None:
        places = np.argwhere(lesions.labels)
        numbers = lesions.labels[tuple(places.T)]
        places = volume.to_patient(places)
    else:
        places, numbers, reach_mm = lesions.points, lesions.numbers, max(reach_mm, POINT_MM)
    if not len(places) or not len(points):
        return np.full(len(points), -1)
    tree = spatial.cKDTree(places)
    distance, nearest = tree.query(volume.to_patient(points), distance_upper_bound=reach_mm + 1e-9)
    found = np.append(numbers, 0)[nearest]  # one past the end: none within reach
    return np.where(np.isfinite(distance), found, 0).astype(np.int64) - 1


def describe(lesions, volume) -> list[dict]:
    """What ``truth.json`` says of every embolus: volume in mm^3 (0 for a point), centre in mm."""
    found = []
    for number in range(1, lesions.count + 1):
        if lesions.labels is not None:
            places = np.argwhere(lesions.labels == number)
            size = len(places) * float(np.prod(volume.spacing))
            centre = volume.to_patient(places.mean(axis=0)[None])[0]
        else:
            size, centre = 0.0, lesions.points[lesions.numbers == number].mean(axis=0)
        x, y, z = (round(float(value), 2) for value in centre)
        found.append({"volume_mm3": round(size, 2), "x": x, "y": y, "z": z})
    return found


def prepare_study(
    source, settings: Settings, seed: int, key: bytes, parts: Mapping[str, str]
) -> StudyResult:
    """Candidates of one volume; a pure function.

    Parameters
    ----------
    source : Source
        Of :mod:`data_prep.readers._volumes`.
    settings : Settings
    seed : int
    key : bytes
        Of the pseudonyms.
    parts : mapping
        Subject pseudonym -> part.

    Returns
    -------
    StudyResult
        Of a test subject with the kind "unit" (the patches of a candidate that are scored, and the
        handcrafted features), of others with "candidate" (one patch and the features) and "patch".

    Raises
    ------
    Unusable
        If the volume cannot be read or used, or has no reference standard.
    """
    from data_prep.candidates import embolus, vessel, vessel_features
    from data_prep.readers import _volumes

    case, subject = pseudonym(source.name, key), pseudonym(source.subject, key)
    volume = _volumes.read(source)
    lesions = _volumes.read_lesions(source, volume)
    if lesions is None:
        raise Unusable(NO_STANDARD)
    how_many = embolus.Settings(most=settings.top_k)
    candidates = embolus.find(volume.hu, volume.spacing, settings=how_many)
    points = np.array([each.voxel for each in candidates], np.int64).reshape(-1, 3)
    hits = matches(points, lesions, volume, settings.match_mm)
    places = volume.to_patient(points)
    how = vessel.Settings(side=settings.patch)
    views = vessel.views(how)

    @functools.cache
    def axis_of(number: int) -> vessel.Axis:
        # The number is the seed of the direction where the vessel has none.
        return vessel.axis(volume.hu, volume.spacing, candidates[number], number, how)

    @functools.cache
    def features_of(number: int) -> np.ndarray:
        axis = axis_of(number)
        return vessel_features.features(volume.hu, volume.spacing, candidates[number], axis, how)

    def each() -> Iterator[tuple]:
        for number, lesion in enumerate(hits):
            common = {
                "label": int(lesion >= 0),
                "subject": subject,
                "case": case,
                "unit": f"{case}-{number}",
                "lesion": int(lesion),
            }
            x, y, z = map(float, places[number])
            extras = {"x": x, "y": y, "z": z, "width_mm": 0.0, "shift": 0.0, "rotation": 0.0}
            yield number, common, extras

    def cut(number: int, wanted: list[vessel.View]) -> np.ndarray:
        voxel, directions = candidates[number].voxel, axis_of(number).directions
        return vessel.planes(volume.hu, volume.spacing, voxel, directions, how, wanted)

    def units() -> Iterator[Example]:
        scored = vessel.spread(settings.test_patches, how)
        for number, common, extras in each():
            stack = cut(number, scored)
            extras |= {"views": len(stack), "features": features_of(number)}
            yield Example(
                common["unit"], stack.reshape(-1, *stack.shape[2:]), extras=extras, **common
            )

    def alone() -> Iterator[Example]:
        middle = [vessel.middle(how)]
        for number, common, extras in each():
            extras |= {"views": 1, "features": features_of(number)}
            yield Example(common["unit"], cut(number, middle)[0], extras=extras, **common)

    def patches() -> Iterator[Example]:
        rng = np.random.default_rng([seed, int(case, 16)])
        for number, common, extras in each():
            drawn = np.sort(rng.permutation(len(views))[: settings.patches_per_candidate])
            chosen = [views[place] for place in drawn]
            stack = cut(number, chosen)
            for place, view, image in zip(drawn, chosen, stack, strict=True):
                own = dataclasses.asdict(view) | {"views": 1, "features": ()}
                yield Example(f"{common['unit']}-{place}", image, extras=extras | own, **common)

    truth = {
        "images": 1,
        "lesions": describe(lesions, volume),
        "candidates": len(candidates),
        "found": len(set(hits.tolist()) - {-1}),
        "spacing_mm": [round(float(side), 4) for side in volume.spacing],
        "shape": list(volume.hu.shape),
    }
    if parts[subject] == "test":
        kinds = {"unit": units()}
    else:
        kinds = {"candidate": alone(), "patch": patches()}
    return StudyResult(case, subject, kinds, truth, [*volume.notes, *lesions.notes])


def prepare(
    raw: pathlib.Path,
    output: pathlib.Path,
    *,
    settings: Settings | None = None,
    choice=None,
    options: command.Options | None = None,
) -> command.Prepared:
    """Raw studies to a dataset folder: what the command does, for other code.

    Arguments and errors as for :func:`data_prep.cimt.prepare`; ``choice`` is
    :class:`data_prep.readers._volumes.Options`.
    """
    from data_prep.readers import _volumes

    settings = settings or Settings()
    choice = choice or _volumes.Options()
    options = dataclasses.replace(options or command.Options(output, key=PUBLIC_KEY), output=output)
    sources = _volumes.find(raw, choice)
    parts = assign(sources, options)
    return command.prepare(
        shards.Layout(APP, CLASSES, EXTRAS, SPLITS, channels=3, balanced=("train", "validation")),
        sources,
        functools.partial(
            prepare_study, settings=settings, seed=options.seed, key=options.key, parts=parts
        ),
        {
            **dataclasses.asdict(settings),
            **dataclasses.asdict(choice),
            # Whether a volume gives patches or whole candidates depends on its part.
            "parts": hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest(),
        },
        dataclasses.replace(options, parts=parts),
    )


def assign(sources, options: command.Options) -> dict[str, str]:
    """Subject pseudonym -> part, of all volumes; those that can already be seen to fail count last.

    A volume that only turns out to be unusable when it is read leaves its part one smaller.
    """
    if options.split_table is not None:
        return split_table.parts(sources, options)
    hopeful, other = set(), set()
    for source in sources:
        known = source.paths("labels") or source.paths("points")
        subjects = hopeful if known and not source.problem else other
        subjects.add(pseudonym(source.subject, options.key))
    if not hopeful:  # each will say why when it is read
        return dict.fromkeys(other, "train")
    return dict.fromkeys(other, "train") | options.assign(hopeful)


def kept_key(output: pathlib.Path) -> bytes:
    """Secret key of the pseudonyms beside the output, ``OUTPUT.key``; made if absent.

    CT studies carry identifiers that are easily guessed, so the seed will not do as a key.

    Raises
    ------
    UserError
        If the file cannot be written, or is empty.
    """
    place = output.with_name(f"{output.name}.key")
    try:
        if not place.exists():
            descriptor, partial = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}-")
            try:
                with open(descriptor, "w") as file:  # for its owner alone
                    file.write(secrets.token_hex(32) + "\n")
                locks.link(partial, place)
                place.chmod(0o600)
            finally:
                os.unlink(partial)
    except FileExistsError:
        pass  # another process was first
    except OSError as error:
        raise UserError(
            f"{place} cannot be written ({error.strerror}): choose --output."
        ) from error
    if not place.stat().st_size:
        raise UserError(
            f"{place} is empty, so the key of the pseudonyms is lost. If no dataset was made with "
            "it, delete the file and start again."
        )
    return splits.secret_key(f"@{place}", 0)


def define_flags() -> None:
    """Define the flags of this command beside the shared ones."""
    from data_prep.readers._volumes import LESIONS

    default = Settings()
    command.define_flags()
    flags.FLAGS["pseudonym_key"].help = (
        "Secret text, or @FILE that holds it, without which nobody can compute a pseudonym from an "
        "identifier. Default: a random one, kept in OUTPUT.key: keep that file with the originals."
    )
    flags.DEFINE_integer("patch", default.patch, "Side of a patch in pixels.", 16)
    flags.DEFINE_integer(
        "top_k",
        default.top_k,
        "Candidates a volume at most: large ones that blood encloses, first.",
        1,
    )
    flags.DEFINE_integer(
        "patches_per_candidate",
        default.patches_per_candidate,
        "Training patches of a candidate, of the paper's 45: widths, shifts and rotations.",
        1,
        VIEWS,
    )
    flags.DEFINE_integer(
        "test_patches",
        default.test_patches,
        "Patches of a test candidate that its score is a mean over, evenly spread over the paper's "
        "45; fewer are faster.",
        1,
        VIEWS,
    )
    flags.DEFINE_float(
        "match_mm",
        default.match_mm,
        "A candidate so near to an embolus counts as in it. 0: it lies in it.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "lesions",
        "auto",
        LESIONS,
        "What one embolus is in a label volume: all that has one value, or what hangs together.",
    )
    flags.DEFINE_bool("derived", False, "Read DICOM series too that call themselves derived.")


def main() -> None:
    """Run the command with the parsed flags."""
    from data_prep.readers import _volumes

    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(Settings)]
    output = pathlib.Path(values.output).resolve()
    if not pathlib.Path(values.input).exists():
        raise UserError(f"--input={values.input} does not exist.")
    if values.pseudonym_key is None and values.folds:
        raise UserError(
            "With --folds all folds need one key, or a person may be test in none of them and in "
            "another twice: give --pseudonym_key=@FILE."
        )
    if values.pseudonym_key is None:
        output.parent.mkdir(parents=True, exist_ok=True)
        values.pseudonym_key = f"@{output.with_name(output.name + '.key')}"
        kept_key(output)
    prepared = prepare(
        pathlib.Path(values.input),
        output,
        settings=Settings(**{name: values[name].value for name in names}),
        choice=_volumes.Options(lesions=values.lesions, derived=values.derived),
        options=command.options(),
    )
    print(command.summary(prepared))
    print(command.recall(prepared, "volume"))


if __name__ == "__main__":
    define_flags()
    command.run(main)
