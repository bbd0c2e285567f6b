"""Implant real embolus shapes into the arteries of a real contrast-enhanced CT.

Public sets give embolus masks without their CT, and contrast CTs without emboli. Both together
give volumes in which the emboli are known exactly. They are not scans of patients with embolism,
and all of them show one chest: everything written says that it is implanted.

    python -m data_prep.implant --ct=CT.nii.gz --arteries=ARTERIES.nii.gz --emboli=MASKS \
        --output=FOLDER

The volumes lie in ``imagesTr``, the labels in ``labelsTr`` (one value for each embolus), and
``implanted.json`` says what was put where. Each case is the given CT, mirrored or not, a little
less enhanced and a little noisier, with emboli of its own.
"""

import dataclasses
import json
import pathlib

import numpy as np
from absl import flags
from scipy import ndimage, special

from data_prep import clot_shapes, command, folders, volume_files
from data_prep.clot_shapes import Shape
from data_prep.errors import UserError
from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._images import Unusable

NOTICE = """These volumes are IMPLANTED: shapes of real emboli were put into the arteries of one CT.

No patient with an embolism was scanned. All cases show the same chest, so that no split can make
training and test independent, and results say how software works, not how well it finds emboli in
patients. State "implanted emboli" wherever a number comes from these files.
implanted.json holds what was put where.
"""
CASE = "IMPLANTED_{:03d}"
CLOT_HU = (30.0, 80.0)
ENHANCEMENT = (0.8, 1.0)  # of what is above ENHANCED
ENHANCED = 100.0  # HU
EXTRA_NOISE = 0.4  # of the CT's own standard deviation, at most
LEAST_ENHANCED = 150.0  # HU, median in the arteries
APART = 2  # voxels between emboli
LEAST_VOXELS = 4
INNER = 2  # voxels next to the volume's border that stay free


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A contrast-enhanced CT with its arteries.

    Attributes
    ----------
    hu : numpy.ndarray
        int16 (Z, Y, X).
    arteries : numpy.ndarray
        bool (Z, Y, X).
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient LPS mm.
    spacing : numpy.ndarray
        float64 (3,): mm, z, y, x.
    blur, noise : float
        Standard deviations of the point spread in mm and of the noise in HU, as measured.
    """

    hu: np.ndarray
    arteries: np.ndarray
    affine: np.ndarray
    spacing: np.ndarray
    blur: float
    noise: float


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One CT with implanted emboli: HU int16, labels uint8 (both Z, Y, X), and what was done."""

    hu: np.ndarray
    labels: np.ndarray
    record: dict


def read_scan(ct: pathlib.Path, arteries: pathlib.Path) -> Scan:
    """Read a CT and the mask of its arteries, from single files of any format that is read.

    Raises
    ------
    UserError
        If a file is absent or damaged, the two lie on different grids, the mask is empty, or the
        arteries hold no contrast agent.
    """
    for flag, path in (("ct", ct), ("arteries", arteries)):
        if not path.is_file():
            raise UserError(f"--{flag}={path} is not a file.")
    try:
        grid = _volumes.open_grid(ct.resolve(), ct.resolve().parent)
        spacing = _grids.check_affine(grid.affine)
        hu, low, high = _grids.hounsfield(grid)
        _grids.check_levels(low, high)
    except Unusable as error:
        raise UserError(f"--ct={ct} cannot be used: {error}.") from error
    try:
        mask_grid = _volumes.open_grid(arteries.resolve(), arteries.resolve().parent)
        volume = _volumes.Volume(hu, spacing, grid.affine)
        mask, _ = _lesions.regrid(_grids.labels(mask_grid), mask_grid.affine, volume)
    except Unusable as error:
        raise UserError(f"--arteries={arteries} does not fit the CT: {error}.") from error
    mask = mask > 0
    if not mask.any():
        raise UserError(f"--arteries={arteries} marks nothing: give a mask of the arteries.")
    level = float(np.median(hu[mask]))
    if level < LEAST_ENHANCED:
        raise UserError(
            f"--ct={ct}: the arteries have {level:.0f} HU and hold no contrast agent: "
            f"give a CT with {LEAST_ENHANCED:g} HU or more, or the right mask."
        )
    blur = estimate_blur(hu, mask, spacing)
    return Scan(hu, mask, grid.affine, spacing, blur, estimate_noise(hu, mask))


def estimate_blur(hu: np.ndarray, mask: np.ndarray, spacing: np.ndarray) -> float:
    """Standard deviation in mm of the point spread, from the slope at the border of a mask.

    An edge blurred by a Gaussian rises between two neighbours of a voxel, ``2 h`` apart, by
    ``erf(h / (sqrt(2) sigma))`` of its height if it runs through the voxel. Against noise the CT
    is blurred by one voxel more, whose variance is then taken off again; the slope is the
    steepest within a voxel, and heights are those of the extremes about 4 mm around. Where
    something else lies as near, the height is too great: the 20th percentile is taken.
    """
    step = float(spacing.mean())
    values = hu.astype(np.float32)
    size = [2 * max(2, round(4 / side)) + 1 for side in spacing]
    calm = ndimage.median_filter(values, 3)
    height = ndimage.maximum_filter(calm, size) - ndimage.minimum_filter(calm, size)
    smooth = ndimage.gaussian_filter(values, step / spacing)
    rise = [ndimage.correlate1d(smooth, [-1, 0, 1], axis) for axis in range(3)]
    slope = np.sqrt(sum((part / (2 * side)) ** 2 for part, side in zip(rise, spacing, strict=True)))
    steepest = ndimage.maximum_filter(slope, 3)
    border = mask & ~ndimage.binary_erosion(mask) & (height > 200)
    if not border.any():
        return 0.5 * step
    share = np.clip(2 * step * steepest[border] / height[border], 1e-3, 0.999)
    sigma = float(np.percentile(step / (np.sqrt(2) * special.erfinv(share)), 20))
    return float(np.sqrt(np.clip(sigma**2 - step**2, (0.2 * step) ** 2, 9.0)))


def estimate_noise(hu: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the noise in HU, from the middle of the arteries."""
    deep = ndimage.distance_transform_cdt(mask, "chessboard")
    values = hu[deep >= max(1, 0.5 * int(deep.max()))].astype(np.float64)
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def implant(scan: Scan, shapes: list[Shape], rng: np.random.Generator) -> Case:
    """Implant emboli into one variation of a CT.

    Parameters
    ----------
    scan : Scan
    shapes : list of Shape
        The largest is placed first. One for which no room is left is named in the record.
    rng : numpy.random.Generator
    """
    mirrored = bool(rng.integers(2))
    enhancement, extra = rng.uniform(*ENHANCEMENT), rng.uniform(0, EXTRA_NOISE) * scan.noise
    arteries = scan.arteries[..., ::-1] if mirrored else scan.arteries
    hu = (scan.hu[..., ::-1] if mirrored else scan.hu).astype(np.float32)
    hu = np.where(hu > ENHANCED, ENHANCED + enhancement * (hu - ENHANCED), hu)
    lumen = ndimage.distance_transform_edt(arteries, sampling=scan.spacing)
    labels = np.zeros(hu.shape, np.uint8)
    placed, unplaced = [], []
    filled = np.zeros(hu.shape, np.float32)
    clot = np.zeros(hu.shape, np.float32)
    for shape in sorted(shapes, key=lambda shape: -shape.volume_mm3):
        facts = {
            "source": shape.source,
            "component": shape.component,
            "volume_before_mm3": round(shape.volume_mm3, 1),
        }
        taken = ndimage.binary_dilation(labels > 0, np.ones((3, 3, 3)), APART)
        free = arteries & ~taken & _inner(arteries.shape)
        place = clot_shapes.find_place(shape, lumen, free, scan.affine, rng)
        fitted = None if place is None else _fit(shape, place, free, scan)
        if fitted is None:
            unplaced.append(facts)
            continue
        box, share, region = fitted
        level = rng.uniform(*CLOT_HU)
        labels[box][region] = len(placed) + 1
        clot[box][share > 0] = level
        filled[box] = np.maximum(filled[box], share)
        volume = float(region.sum() * np.prod(scan.spacing))
        facts |= {
            "label": len(placed) + 1,
            "volume_after_mm3": round(volume, 1),
            "centre_mm": [round(float(value), 2) for value in place.centre],
            "turn": [[round(float(value), 4) for value in row] for row in place.turn],
            "along_artery": place.along,
            "clot_hu": round(level, 1),
        }
        placed.append(facts)
    hu = _fill(hu, arteries, filled, clot, scan)
    hu += _noise(hu.shape, extra, scan, rng)
    record = {
        "mirrored": mirrored,
        "enhancement": round(float(enhancement), 4),
        "added_noise_hu": round(float(extra), 2),
        "emboli": placed,
        "without_room": unplaced,
    }
    limits = np.iinfo(np.int16)
    return Case(np.rint(np.clip(hu, _grids.AIR, limits.max)).astype(np.int16), labels, record)


def _inner(shape: tuple[int, ...]) -> np.ndarray:
    inner = np.zeros(shape, bool)
    inner[INNER:-INNER, INNER:-INNER, INNER:-INNER] = True
    return inner


def _fit(
    shape: Shape, place: clot_shapes.Place, free: np.ndarray, scan: Scan
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """Box, share of each voxel and labelled region of a shape cut off at the artery's border."""
    box, share = clot_shapes.occupancy(shape, place, scan.hu.shape, scan.affine)
    share = share * free[box]
    parts, count = ndimage.label(share >= 0.5, np.ones((3, 3, 3)))
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < LEAST_VOXELS or sizes.max() * np.prod(scan.spacing) < clot_shapes.LEAST_MM3:
        return None
    region = parts == sizes.argmax() + 1
    share[~ndimage.binary_dilation(region, np.ones((3, 3, 3)))] = 0
    # Rims of other parts that were cut off would look like a clot and have no label.
    share[(parts > 0) & ~region] = 0
    return box, share, region


def _fill(
    hu: np.ndarray, arteries: np.ndarray, filled: np.ndarray, clot: np.ndarray, scan: Scan
) -> np.ndarray:
    """Replace blood by clot where it is filled, float32 (Z, Y, X).

    A scan is linear in the tissue: what is filled, blurred as the scanner blurs, times the
    difference of clot and blood is added, and the CT keeps its noise. Towards the artery's wall,
    where voxels hold less than a full share of blood, what is there takes the place of blood.
    """
    # Shares are means over voxels, which is a blur too: of variance side^2 / 12.
    sigma = np.sqrt(np.maximum(scan.blur**2 - scan.spacing**2 / 12, 0)) / scan.spacing
    share = ndimage.gaussian_filter(filled, sigma)
    # The level of the nearest clot also holds in the blurred rim.
    nearest = ndimage.distance_transform_edt(clot == 0, return_distances=False, return_indices=True)
    level = clot[tuple(nearest)]
    wide = 4.0 / scan.spacing
    weight = ndimage.gaussian_filter(arteries.astype(np.float32), wide)
    core = np.where(arteries, hu, 0)
    usual = float(np.median(hu[arteries]))
    mean = ndimage.gaussian_filter(core, wide) / np.maximum(weight, 1e-3)
    blood = np.where(weight > 1e-3, np.maximum(mean, 0.9 * usual), usual)
    here = ndimage.median_filter(hu, 3)
    full = np.clip((here / blood - 0.75) / 0.15, 0, 1)
    replaced = full * blood + (1 - full) * np.maximum(here, level)
    return np.where(share > 1e-3, hu + share * (level - replaced), hu)


def _noise(
    shape: tuple[int, ...], deviation: float, scan: Scan, rng: np.random.Generator
) -> np.ndarray:
    """Noise about as coarse as the CT's."""
    grain = rng.standard_normal(shape, np.float32)
    grain = ndimage.gaussian_filter(grain, 0.6 * scan.blur / scan.spacing)
    return grain * np.float32(deviation / grain.std())


def generate(
    scan: Scan,
    shapes: list[Shape],
    output: pathlib.Path,
    patients: int,
    emboli_per_patient: int,
    seed: int = 0,
    dropped: int = 0,
) -> dict:
    """Write cases, ``IMPLANTED.txt`` and ``implanted.json``; the same arguments, the same bytes.

    Parameters
    ----------
    scan : Scan
    shapes : list of Shape
        Each is used once before one is used again.
    output : pathlib.Path
        Made if absent.
    patients, emboli_per_patient : int
    seed : int
    dropped : int
        Shapes that were too small, for the record.

    Returns
    -------
    dict
        What ``implanted.json`` holds.

    Raises
    ------
    UserError
        If ``emboli_per_patient`` is more than there are shapes.
    """
    if emboli_per_patient > len(shapes):
        raise UserError(
            f"--emboli_per_patient={emboli_per_patient}: there are only {len(shapes)} emboli."
        )
    order = np.random.default_rng([seed, 0])
    waiting: list[int] = []
    for name in ("imagesTr", "labelsTr"):
        (output / name).mkdir(parents=True, exist_ok=True)
    (output / "IMPLANTED.txt").write_text(NOTICE)
    records = []
    for number in range(patients):
        chosen: list[int] = []
        while len(chosen) < emboli_per_patient:
            if not any(index not in chosen for index in waiting):
                waiting += [int(index) for index in order.permutation(len(shapes))]
            index = next(index for index in waiting if index not in chosen)
            waiting.remove(index)
            chosen.append(index)
        rng = np.random.default_rng([seed, number + 1])
        case = implant(scan, [shapes[index] for index in chosen], rng)
        name = CASE.format(number)
        volume_files.write_nifti(output / "imagesTr" / f"{name}.nii.gz", case.hu, scan.affine)
        volume_files.write_nifti(output / "labelsTr" / f"{name}.nii.gz", case.labels, scan.affine)
        records.append({"case": name, **case.record})
    report = {
        "implanted": True,
        "notice": NOTICE,
        "seed": seed,
        "shapes": len(shapes),
        "shapes_too_small": dropped,
        "least_mm3": clot_shapes.LEAST_MM3,
        "blur_mm": round(scan.blur, 3),
        "noise_hu": round(scan.noise, 2),
        "spacing_mm_zyx": [round(float(side), 4) for side in scan.spacing],
        "patients": records,
    }
    (output / "implanted.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def summary(report: dict) -> str:
    """What was implanted, in a few lines."""
    emboli = [embolus for case in report["patients"] for embolus in case["emboli"]]
    lost = sum(len(case["without_room"]) for case in report["patients"])
    before = [embolus["volume_before_mm3"] for embolus in emboli]
    after = [embolus["volume_after_mm3"] for embolus in emboli]
    used = {(embolus["source"], embolus["component"]) for embolus in emboli}
    lines = [
        f"{report['shapes']} emboli read, {report['shapes_too_small']} under "
        f"{report['least_mm3']:g} mm3 dropped. Blur of the CT {report['blur_mm']:g} mm, noise "
        f"{report['noise_hu']:g} HU.",
        f"{len(emboli)} implanted in {len(report['patients'])} cases ({len(used)} different "
        f"shapes), {lost} without room.",
    ]
    if emboli:
        lines.append(
            f"Volume before cutting {min(before):.0f} to {max(before):.0f} mm3 (median "
            f"{np.median(before):.0f}), after it {min(after):.0f} to {max(after):.0f} mm3 (median "
            f"{np.median(after):.0f})."
        )
    return "\n".join(lines)


def main() -> None:
    """Implant what the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as output:
        scan = read_scan(pathlib.Path(values.ct), pathlib.Path(values.arteries))
        shapes, dropped = clot_shapes.read_shapes(pathlib.Path(values.emboli))
        report = generate(
            scan,
            shapes,
            output,
            values.patients,
            values.emboli_per_patient,
            values.seed,
            len(dropped),
        )
    print(summary(report))
    print(f"IMPLANTED emboli, not scans of patients with embolism: {values.output}")


if __name__ == "__main__":
    flags.DEFINE_string("ct", None, "Contrast-enhanced CT, one file.", required=True)
    flags.DEFINE_string("arteries", None, "Mask of its pulmonary arteries.", required=True)
    flags.DEFINE_string("emboli", None, "Folder of embolus masks.", required=True)
    folders.define_output()
    flags.DEFINE_integer("patients", 20, "Cases to make.", 1, 999)
    flags.DEFINE_integer("emboli_per_patient", 3, "Emboli in each.", 1, 255)
    command.run(main, resumes=False)
