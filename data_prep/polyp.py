"""Colonoscopy to records: candidates of polyps by shape and context, and patches of each.

    python -m data_prep.polyp --input=RAW --output=DATA

RAW is a folder in one of the layouts that the colonoscopy readers know (``data_prep.readers``).
The splits train and validation hold patches, test whole candidates. The detector that proposes
them learns from the training subjects alone; it is kept in ``assets/`` of the dataset.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from absl import flags, logging

from data_prep import colonoscopy, command, patches, runner, shards
from data_prep.errors import UserError
from data_prep.polyp_patches import (
    IGNORED,
    MIRRORS,
    SHIFTS,
    Settings,
    annotation,
    lesions_of,
    views,
)
from data_prep.readers._images import Unusable
from data_prep.records import Example
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

APP = "polyp"
PUBLIC_KEY = b"no person"
CLASSES = ("other", "polyp")
EXTRAS = {
    "frame": "int",
    "x": "float",  # of the candidate, in pixels of the frame
    "y": "float",
    "scale": "float",  # of the box; 0 where all scales are together
    "shift": "int",  # 0 centre, 1 left, 2 right, 3 up, 4 down
    "rotation": "int",  # of the eight versions of a square, see data_prep.patches.dihedral
    "score": "float",  # of the detector
    "views": "int",  # patches below one another in the image
}
SPLITS = {
    "train": ("train", "patch"),
    "validation": ("validation", "patch"),
    "test": ("test", "unit"),
}


def prepare_study(
    source,
    settings: Settings,
    sampling,
    seed: int,
    key: bytes,
    parts: Mapping[str, str],
    detector_path: pathlib.Path,
) -> StudyResult:
    """Candidates of one video; a pure function.

    Parameters
    ----------
    source : Source
        Of :mod:`data_prep.readers._colonoscopy`.
    settings, sampling : Settings, Sampling
    seed : int
    key : bytes
        Of the pseudonyms.
    parts : mapping
        Subject pseudonym -> part: test subjects give whole candidates, the others patches.
    detector_path : path
        Of the fitted detector.

    Returns
    -------
    StudyResult
        With the kind "unit" or the kind "patch".
    """
    from data_prep.candidates import polyp as candidates
    from data_prep.readers import _colonoscopy

    case, subject = pseudonym(source.name, key), pseudonym(source.subject, key)
    if subject not in parts:
        # It could not be read when the parts were decided: say why.
        collections.deque(_colonoscopy.frames(source, sampling), maxlen=0)
        raise Unusable("it has changed while it was read")
    detector = candidates.load(detector_path)
    truth = {"images": 0, "lesions": [], "candidates": 0, "found": 0}
    notes: list[str] = []
    whole = parts[subject] == "test"
    rng = np.random.default_rng([seed, int(case, 16)])

    def examples() -> Iterator[Example]:
        for frame in _colonoscopy.frames(source, sampling, notes):
            if frame.mask is None and not frame.boxes:
                continue
            first = len(truth["lesions"])
            labels, found = lesions_of(frame, settings)
            truth["images"] += 1
            truth["lesions"] += [{"frame": frame.index, **lesion} for lesion in found]
            hit = set()
            for number, candidate in enumerate(detector.detect(frame.image)[: settings.top_k]):
                height, width = labels.shape
                column = min(max(round(candidate.x), 0), width - 1)
                row = min(max(round(candidate.y), 0), height - 1)
                lesion = int(labels[row, column])
                if lesion == IGNORED:
                    continue
                truth["candidates"] += 1
                lesion = first + lesion if lesion >= 0 else -1
                hit.add(lesion)
                unit = f"{case}-{frame.index}-{number}"
                stack = views(frame.image, candidate.box, settings)
                common = {
                    "label": int(lesion >= 0),
                    "subject": subject,
                    "case": case,
                    "unit": unit,
                    "lesion": lesion,
                }
                extras = {
                    "frame": frame.index,
                    "x": float(candidate.x),
                    "y": float(candidate.y),
                    "score": float(candidate.score),
                }
                if whole:
                    together = stack.reshape(-1, *stack.shape[2:])
                    extras |= {"scale": 0.0, "shift": 0, "rotation": 0, "views": len(stack)}
                    yield Example(unit, together, extras=extras, **common)
                    continue
                count = min(settings.patches_per_candidate, len(stack) * MIRRORS)
                for place in np.sort(rng.permutation(len(stack) * MIRRORS)[:count]):
                    view, rotation = divmod(int(place), MIRRORS)
                    scale, shift = divmod(view, SHIFTS)
                    patch = patches.dihedral(stack[view][None])[rotation, 0]
                    drawn = {
                        "scale": settings.scales[scale],
                        "shift": shift,
                        "rotation": rotation,
                        "views": 1,
                    }
                    yield Example(f"{unit}-{place}", patch, extras=extras | drawn, **common)
            truth["found"] += len(hit - {-1})
        if not truth["images"]:
            raise Unusable("no frame of it is annotated with a mask or boxes")

    return StudyResult(case, subject, {"unit" if whole else "patch": examples()}, truth, notes)


def prepare(
    raw: pathlib.Path,
    output: pathlib.Path,
    *,
    settings: Settings | None = None,
    sampling=None,
    choice=None,
    detector: pathlib.Path | None = None,
    options: command.Options | None = None,
) -> command.Prepared:
    """Raw studies to a dataset folder: what the command does, for other code.

    Parameters
    ----------
    raw, output : pathlib.Path
    settings : Settings, optional
    sampling : data_prep.readers._colonoscopy.Sampling, optional
        Which frames of a video; by default all.
    choice : data_prep.readers._colonoscopy.Options, optional
        What the files leave open.
    detector : pathlib.Path, optional
        Fitted detector; by default one is fitted to the training subjects.
    options : command.Options, optional
        As for :func:`data_prep.cimt.prepare`.

    Raises
    ------
    UserError
        If no case can be used, the training subjects show no polyp, ``detector`` has learnt from
        test cases, and as in :func:`data_prep.command.prepare`.
    """
    from data_prep.candidates import polyp as candidates
    from data_prep.readers import _colonoscopy, frame_folder, image_mask, lesion_boxes

    settings, sampling = settings or Settings(), sampling or _colonoscopy.Sampling()
    options = dataclasses.replace(options or command.Options(output, key=PUBLIC_KEY), output=output)
    sources = _colonoscopy.find(raw, choice)
    colonoscopy.require_known(
        sources,
        lambda s: s.facts.get("masks") is not None or any(_annotated(item) for item in s.items),
        f"has masks or boxes. Known layouts: {image_mask.LAYOUT}; {lesion_boxes.LAYOUT}; "
        f"CASE/ or NAME.mp4 beside CASE{frame_folder.MASKS}/ or NAME{frame_folder.MASKS}/",
    )
    colonoscopy.warn_of_unknown_identity(sources)
    usable = colonoscopy.readable(sources, sampling, options)
    if not usable:
        raise UserError(f"No case of {raw} can be read: {_why(sources[0], sampling)}.")
    # A table speaks of all cases, also of those that cannot be read.
    parts = colonoscopy.assign(sources if options.split_table else usable, options)
    options = dataclasses.replace(options, parts=parts)
    if detector is not None:
        _require_unseen(detector, usable, parts, options)
    identity = _identity(detector, usable, parts, settings, sampling, options)
    place = detector or shards.work_folder(output) / f"{identity[:32]}-{candidates.FILE}"

    def fitted(work: pathlib.Path) -> dict[str, bytes]:
        if detector is None and not place.exists():
            _fit(usable, sampling, settings, parts, options, place)
        return {candidates.FILE: place.read_bytes()}

    return command.prepare(
        shards.Layout(APP, CLASSES, EXTRAS, SPLITS, channels=3, balanced=("train", "validation")),
        sources,
        functools.partial(
            prepare_study,
            settings=settings,
            sampling=sampling,
            seed=options.seed,
            key=options.key,
            parts=parts,
            detector_path=place,
        ),
        {
            **dataclasses.asdict(settings),
            **dataclasses.asdict(sampling),
            **colonoscopy.recorded(choice),
            # The detector depends on all training studies, and every candidate on the detector.
            "detector": identity,
            # Whether a case gives patches or whole candidates depends on its part.
            "parts": hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest(),
        },
        options,
        assets=fitted,
    )


def _annotated(item) -> bool:
    """Whether something says of a frame where lesions are, or that it has none."""
    return bool(item.mask or item.boxes or item.box_file or item.is_negative)


def _why(source, sampling) -> str:
    from data_prep.readers import _colonoscopy

    try:
        collections.deque(_colonoscopy.frames(source, sampling), maxlen=0)
    except Unusable as error:
        return f"{source.name}: {error}"
    return "its files changed meanwhile"


def _fit(
    sources, sampling, settings: Settings, parts: Mapping[str, str], options, place: pathlib.Path
) -> None:
    """Fit the detector to the training subjects and keep it."""
    from data_prep.candidates import polyp as candidates
    from data_prep.readers import _colonoscopy

    own = _members(sources, parts, options, "train")
    if not own:
        raise UserError(
            "No subject is in the training part, so no detector can be fitted: lower "
            "--test_fraction, or give --detector=FILE, the assets/candidates.npz of another "
            "dataset."
        )
    logging.info("The detector of candidates learns from %d training cases.", len(own))

    def annotated():
        for source in own:
            # Frames of one subject stay together when the detector checks itself.
            name = pseudonym(source.subject, options.key)
            for frame in _colonoscopy.frames(source, sampling):
                if frame.mask is not None or frame.boxes:
                    yield frame.image, annotation(frame), name

    how = candidates.Settings(trees=settings.trees, samples=settings.samples, top_k=settings.top_k)
    detector = candidates.fit(annotated(), how, seed=options.seed)
    detector = dataclasses.replace(detector, learnt=_contents(own, options))
    partial = place.with_name(f"partial-{place.name}")
    detector.save(partial)
    partial.replace(place)


def _members(sources, parts: Mapping[str, str], options, part: str) -> list:
    """Cases whose subject is in this part."""
    return [s for s in sources if parts[pseudonym(s.subject, options.key)] == part]


def _contents(sources, options) -> tuple[str, ...]:
    """Hashes by which a detector remembers its cases: of their files, under no key."""
    return tuple(sorted(runner.tokens(sources, {}, options.workers)))


def _require_unseen(detector: pathlib.Path, sources, parts: Mapping[str, str], options) -> None:
    """Refuse a detector that has learnt from a case of the test part."""
    from data_prep.candidates import polyp as candidates

    test = _members(sources, parts, options, "test")
    seen = set(_contents(test, options)) & set(candidates.load(detector).learnt)
    if seen:
        raise UserError(
            f"--detector={detector} has learnt from {len(seen)} of the {len(test)} test cases, so "
            "its recall there would look too good: give another detector, or another test part."
        )


def _identity(
    detector: pathlib.Path | None,
    sources,
    parts: Mapping[str, str],
    settings: Settings,
    sampling,
    options,
) -> str:
    """Hash of what decides the detector."""
    if detector is not None:
        try:
            return hashlib.sha256(detector.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"--detector={detector} cannot be read ({error.strerror}): give the "
                "assets/candidates.npz of a dataset of this app."
            ) from error
    own = _members(sources, parts, options, "train")
    tokens = runner.tokens(own, dataclasses.asdict(sampling), options.workers)
    how = [settings.trees, settings.samples, settings.top_k, options.seed]
    return hashlib.sha256(json.dumps([how, sorted(tokens)]).encode()).hexdigest()


def define_flags() -> None:
    """Define the flags of this command beside the shared ones."""
    default = Settings()
    colonoscopy.define_flags(every_s=None)
    flags.DEFINE_integer(
        "patch", default.patch, "Side of a stored patch in pixels; the network resizes it.", 16
    )
    flags.DEFINE_list(
        "scales", [str(s) for s in default.scales], "Factors on a candidate's box; the paper's."
    )
    flags.DEFINE_float(
        "shift", default.shift, "Share of the resized box by which it is moved; the paper's."
    )
    flags.DEFINE_integer("top_k", default.top_k, "Candidates a frame at most.", 1)
    flags.DEFINE_integer(
        "patches_per_candidate",
        default.patches_per_candidate,
        "Training patches drawn from the 120 of a candidate; both classes end with equal shares.",
        1,
    )
    flags.DEFINE_integer(
        "test_mirrors",
        default.test_mirrors,
        "8: score a test candidate by all mirrored and turned versions, as in the paper; 1: by the "
        "patches as they are, eight times faster.",
    )
    flags.DEFINE_float(
        "min_lesion",
        default.min_lesion,
        "Spots of a mask smaller than this share of the frame are no lesions.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer("trees", default.trees, "Of each forest of the detector of candidates.", 1)
    flags.DEFINE_integer(
        "samples", default.samples, "Edges from which the detector's forests learn.", 100
    )
    flags.DEFINE_string(
        "detector",
        None,
        "assets/candidates.npz of another dataset: use its detector, for instance to test on a "
        "second set what was learnt on a first. Default: fit one to the training subjects.",
    )


def main() -> None:
    """Run the command with the parsed flags."""
    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: values[name].value for name in names}
    try:
        given["scales"] = tuple(float(scale) for scale in given["scales"])
    except ValueError:
        raise UserError(f"--scales must be numbers: {','.join(given['scales'])}.") from None
    choice, sampling = colonoscopy.choices()
    prepared = prepare(
        pathlib.Path(values.input),
        pathlib.Path(values.output),
        settings=Settings(**given),
        sampling=sampling,
        choice=choice,
        detector=pathlib.Path(values.detector) if values.detector else None,
        options=command.options(),
    )
    print(command.summary(prepared))
    print(command.recall(prepared, "frame"))


if __name__ == "__main__":
    define_flags()
    command.run(main)
