"""How well the handcrafted tracer does, and how well any tracer could do against these experts.

    python benchmarks/handcrafted_cimt.py --input=RAW

Traces the regions that data preparation cuts from annotated carotid studies and prints errors with
95 % intervals over subjects; finds the far wall in the whole images; and measures the annotation
itself: the grid its points lie on, their scatter about a smooth curve, and the disagreement of two
annotations of one frozen frame. The tracer's settings were chosen on studies named up to
--development; the others are the test.
"""

import itertools
import pathlib

import numpy as np
from absl import app, flags

from data_prep import far_wall, patches
from data_prep.readers import _carotid
from data_prep.readers._images import Unusable
from medxfer.evaluation import boundary, intervals
from medxfer.evaluation.boundary import Boundaries
from medxfer.handcrafted import cimt

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Raw studies.", required=True)
flags.DEFINE_string("development", "AAAHZ", "Last name of the studies the settings were chosen on.")
flags.DEFINE_integer("seed", 0, "Of the vertical places of the regions.")

FOUND_PX = 15  # a far wall this close to the annotated one, on average, is found
SAME_FRAME = 0.98  # correlation at no shift, above which two images are one frozen frame


def load(root: pathlib.Path, repeats: str) -> list[_carotid.CarotidStudy]:
    """Studies of every kind of source that can be read, by name."""
    options, studies = _carotid.Options(repeats=repeats), []
    for reader in _carotid.readers().values():
        for source in reader.detect(root, options):
            try:
                studies.append(reader.read(source))
            except Unusable as error:
                if repeats == "consensus":
                    print(f"left out {source.name}: {error}")
    return sorted(studies, key=lambda study: study.case)


def wall(study: _carotid.CarotidStudy) -> Boundaries:
    """Annotated rows per column of the image, NaN outside."""
    width = study.image.shape[1]
    gap = far_wall.Settings().max_gap_mm / study.mm_per_pixel_x
    points = study.lumen_intima, study.media_adventitia
    return Boundaries(*(far_wall.columns(p, width, gap) for p in points))


def trace(studies: list[_carotid.CarotidStudy]) -> dict[str, np.ndarray]:
    """One value a region: subject, case, errors in µm and mm."""
    settings = far_wall.Settings()
    margin = settings.margin
    size = settings.roi_width + 2 * margin, settings.roi_height + 2 * margin
    rows = []
    for number, study in enumerate(studies):
        rng = np.random.default_rng([FLAGS.seed, number])
        mm = study.mm_per_pixel
        try:
            regions = far_wall.find_regions(study, settings, rng)
        except Unusable as error:
            print(f"no region in {study.case}: {error}")
            continue
        for region in regions:
            roi = patches.window(study.image, region.x - margin, region.y - margin, *size)
            true = Boundaries(region.lumen_intima, region.media_adventitia)
            found = cimt.trace(roi, margin, mm)
            unscored = np.isnan(true.li + true.ma)
            common = Boundaries(*(np.where(unscored, np.nan, r) for r in (found.li, found.ma)))
            thickness = [boundary.thickness_mm(pair, mm) for pair in (common, true)]
            errors = [
                boundary.error_um(*pair, mm) for pair in ((found.li, true.li), (found.ma, true.ma))
            ]
            rows.append((study.subject, study.case, *errors, thickness[0] - thickness[1]))
    names = "subject", "case", "li", "ma", "thickness"
    return {n: np.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}


def print_errors(name: str, regions: dict[str, np.ndarray], chosen: np.ndarray) -> None:
    """Mean, interval and median of the errors of the chosen regions."""
    subjects = regions["subject"][chosen]
    if not subjects.size:
        return
    print(f"\n{name}: {subjects.size} regions, {np.unique(subjects).size} subjects")
    for label, key, unit, digits in (
        ("lumen-intima error", "li", "µm", 1),
        ("media-adventitia error", "ma", "µm", 1),
        ("thickness error", "thickness", "mm", 3),
    ):
        values = np.abs(regions[key][chosen])
        found = intervals.bootstrap(intervals.mean(values), subjects)
        print(
            f"  {label:23} {found.estimate:.{digits}f} [{found.low:.{digits}f}, "
            f"{found.high:.{digits}f}] {unit}, median {np.median(values):.{digits}f}"
            + (f" ({found.caution})" if found.caution else "")
        )
    print(f"  {'thickness bias':23} {regions['thickness'][chosen].mean():+.3f} mm")


def print_far_wall(studies: list[_carotid.CarotidStudy]) -> None:
    """Share of images whose far wall was found."""
    mean, worst = [], []
    for study in studies:
        true = wall(study)
        distance = np.abs(cimt.find_far_wall(study.image, study.mm_per_pixel).rows
                          - (true.li + true.ma) / 2)  # fmt: skip
        scored = distance[~np.isnan(true.li + true.ma)]
        mean.append(scored.mean())
        worst.append(scored.max())
    print(f"\nfar wall within {FOUND_PX} px of the annotated one, of {len(studies)} images:")
    print(f"  on average over the columns   {np.mean(np.array(mean) <= FOUND_PX):.1%}")
    print(f"  in every column               {np.mean(np.array(worst) <= FOUND_PX):.1%}")


def print_annotation(studies: list[_carotid.CarotidStudy]) -> None:
    """Grid of the points and their mean distance from a curve fitted to the others."""
    print(
        "\nannotated points, one left out at a time, mean distance from the curve through the rest"
    )
    for name in ("lumen_intima", "media_adventitia"):
        steps, errors = [], {2: [], 3: []}
        for study in studies:
            x, y = getattr(study, name).T
            steps.extend(np.diff(np.unique(np.round(y, 4))))
            for degree, found in errors.items():
                basis = np.vander((x - x.mean()) / np.ptp(x), degree + 1)
                hat = basis @ np.linalg.pinv(basis)
                left_out = (y - hat @ y) / (1 - np.diag(hat))
                found.append(np.abs(left_out).mean() * study.mm_per_pixel * 1000)
        fits = ", ".join(f"degree {d}: {np.mean(found):.0f} µm" for d, found in errors.items())
        print(f"  {name.replace('_', '-'):16} grid of {np.min(steps):.3f} px; {fits}")


def print_repeats(studies: list[_carotid.CarotidStudy]) -> None:
    """Disagreement of two annotations of the same frozen frame."""
    rows = []
    for a, b in itertools.combinations(studies, 2):
        if a.subject != b.subject or a.image.shape != b.image.shape:
            continue
        first, second = wall(a), wall(b)
        common = ~np.isnan(first.li + first.ma + second.li + second.ma)
        if not common.any():
            continue
        middle = int(np.mean((first.li + first.ma)[common]) / 2)
        near = [s.image[max(0, middle - 60) : middle + 60, common].ravel() for s in (a, b)]
        if np.corrcoef(*near)[0, 1] < SAME_FRAME:
            continue
        second = Boundaries(*(np.where(common, r, np.nan) for r in (second.li, second.ma)))
        mm = (a.mm_per_pixel + b.mm_per_pixel) / 2  # calibrated by hand, each on its own
        first_common = Boundaries(*(np.where(common, r, np.nan) for r in (first.li, first.ma)))
        thickness = [boundary.thickness_mm(pair, mm) for pair in (first_common, second)]
        errors = [
            boundary.error_um(*pair, mm) for pair in ((first.li, second.li), (first.ma, second.ma))
        ]
        rows.append((*errors, abs(thickness[0] - thickness[1])))
    if not rows:
        return
    li, ma, thickness = np.mean(rows, axis=0)
    # Two equal, independent errors differ by sqrt(2) times either of them.
    print(f"\ntwo annotations of one frame, {len(rows)} pairs: they differ by {li:.0f} (LI) and "
          f"{ma:.0f} µm (MA), {thickness:.3f} mm in thickness;")  # fmt: skip
    print(f"  so a perfect tracer would err by about {li / 2**0.5:.0f} and {ma / 2**0.5:.0f} µm, "
          f"{thickness / 2**0.5:.3f} mm")  # fmt: skip


def main(arguments: list[str]) -> None:
    """Read, trace, print."""
    del arguments
    root = pathlib.Path(FLAGS.input).resolve()
    studies = load(root, "consensus")
    regions = trace(studies)
    development = regions["case"] <= FLAGS.development
    print_errors("all", regions, np.ones(development.size, bool))
    print_errors(f"development, up to {FLAGS.development}", regions, development)
    print_errors("test", regions, ~development)
    print_far_wall(studies)
    apart = load(root, "separate")
    print_annotation(apart)
    print_repeats(apart)


if __name__ == "__main__":
    app.run(main)
