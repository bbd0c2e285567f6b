"""Synthetic CT pulmonary angiograms with emboli whose extent is known, as DICOM series.

Arteries and veins branch through two lungs; emboli lie in the arteries in the middle, against the
wall, astride a fork, or stop the lumen. What makes real scans hard is there too: lymph nodes
against the arteries, veins less enhanced than arteries and some hardly at all, plugged bronchi,
blood that is badly mixed, streaks from the dense vena cava, pulsation, noise, and the blur of the
reconstruction, by which a small vessel has the brightness of a clot at its rim.

    python -m data_prep.phantoms.pe --output=FOLDER
    python -m data_prep.pe --input=FOLDER --output=DATA
"""

import concurrent.futures
import dataclasses
import functools
import pathlib

import numpy as np
from absl import flags
from scipy import ndimage

from data_prep import command, folders, volume_files
from data_prep.phantoms import _clots, _dicom, _thorax
from data_prep.phantoms._vessels import Grid, coverage, texture

SHAPE = (60, 168, 168)  # z, y, x
VERSION = 1  # raised whenever the same seed gives other volumes
WITHOUT = 9  # every so many patients have no embolus, as in real sets
SLICE_MM = 1.25


@dataclasses.dataclass(frozen=True)
class Scan:
    """Contrast and image quality of one exam.

    Attributes
    ----------
    artery, vein, aorta, cava, azygos : float
        HU of blood.
    mixing : float
        Greatest share of the veins' enhancement that is missing somewhere.
    clot : float
        HU of emboli.
    blur : (float, float)
        mm, standard deviations of the point spread in the slice and across slices.
    noise : float
        HU, standard deviation.
    kernel : float
        mm, width of the noise's grain.
    pulsation : float
        mm, displacement near the heart.
    streak : float
        HU, strength of the streaks from the vena cava.
    """

    artery: float
    vein: float
    aorta: float
    cava: float
    azygos: float
    mixing: float
    clot: float
    blur: tuple[float, float]
    noise: float
    kernel: float
    pulsation: float
    streak: float


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
    """One rendered exam.

    Attributes
    ----------
    hu : numpy.ndarray
        int16 (Z, Y, X).
    labels : numpy.ndarray
        uint8 (Z, Y, X): 0 none, 1 to n the emboli.
    grid : Grid
    scan : Scan
    clots : list of Clot
        Emboli 1 to n.
    """

    hu: np.ndarray
    labels: np.ndarray
    grid: Grid
    scan: Scan
    clots: list[_clots.Clot]


def generate(folder: pathlib.Path, seed: int = 0, patients: int = 12) -> None:
    """Write a DICOM series in a folder of its own for every patient, and its labels beside it.

    Labels are ``FOLDER_label.nii.gz`` or, for every other patient, ``FOLDER_label.nrrd`` (the
    layout of readers.dicom_ct). The same arguments give the same bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    seed : int
    patients : int
        Each has one exam with 3 to 6 emboli, every ninth one without.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Two threads: the time goes into array operations, which run beside each other.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(functools.partial(_generate, folder, seed), range(patients)))


def ensure(cache: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Folder of the phantom with the default size, generated if it is not in ``cache`` yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    return folders.ensure(
        cache, f"pe-phantom-{VERSION}-{seed}", lambda folder: generate(folder, seed)
    )


def identifiers(seed: int = 0, patients: int = 12) -> tuple[str, ...]:
    """All that says who the made-up patients are; none of it may be in anything made of them."""
    people = (_dicom.draw_person(seed, number) for number in range(patients))
    return tuple(text for person in people for text in person.identifiers())


def draw_scan(rng: np.random.Generator) -> Scan:
    """Draw how well an exam succeeded."""
    artery = rng.uniform(260, 430)
    return Scan(
        artery=artery,
        vein=artery * rng.uniform(0.5, 0.8),
        aorta=artery * rng.uniform(0.45, 0.9),
        cava=artery + rng.uniform(150, 500),
        azygos=rng.uniform(70, 150),
        mixing=rng.uniform(0.5, 0.85),
        clot=rng.uniform(40, 75),
        blur=(rng.uniform(0.5, 0.72), rng.uniform(0.6, 0.85)),
        noise=rng.uniform(14, 27),
        kernel=rng.uniform(0.55, 0.8),
        pulsation=rng.uniform(0.5, 3.0),
        streak=rng.uniform(15, 55),
    )


def draw_patient(seed: int, number: int) -> Patient:
    """Render one patient of a seed; the same numbers give the same voxels."""
    rng = np.random.default_rng([seed, number])
    side = round(rng.uniform(0.86, 0.94), 4)
    grid = Grid(SHAPE, (SLICE_MM, side, side))
    scan = draw_scan(rng)
    anatomy = _thorax.draw_anatomy(grid.half, rng)
    artery = grid.distance(anatomy.arteries.pieces())
    vein = grid.distance(anatomy.veins.pieces())
    count = 0 if number % WITHOUT == WITHOUT - 1 else int(rng.integers(3, 7))
    clots, clot, labels = _clots.draw_clots(anatomy.arteries, grid, artery, count, rng)
    hu = _thorax.draw_surroundings(anatomy, grid, artery, vein, rng)
    _draw_blood(hu, anatomy, grid, scan, artery, vein, clot, rng)
    hu = expose(hu, grid, scan, rng)
    return Patient(hu, labels, grid, scan, clots)


def expose(hu: np.ndarray, grid: Grid, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """What the scanner makes of the true HU: pulsation, blur, streaks, noise.

    Parameters
    ----------
    hu : numpy.ndarray
        float32 (Z, Y, X).
    grid : Grid
    scan : Scan
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        int16 (Z, Y, X), -1024 to 3071 HU, as scanners store it.
    """
    hu = _pulse(hu, grid, scan, rng)
    across, *inside = grid.spacing
    sigma = (scan.blur[1] / across, *(scan.blur[0] / side for side in inside))
    hu = ndimage.gaussian_filter(hu, sigma, mode="nearest")
    hu += _streaks(grid, scan, rng)
    hu += noise(grid, scan, rng)
    return np.rint(np.clip(hu, -1024, 3071)).astype(np.int16)


def noise(grid: Grid, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """Noise of filtered back projection, float32 (Z, Y, X).

    Its power rises with the frequency, by the ramp filter, and falls by the kernel (Riederer,
    Pelc and Chesler, Phys Med Biol 1978); neighbouring slices share a part.
    """
    depth, height, width = grid.shape
    frequency = np.hypot(
        np.fft.fftfreq(height, grid.spacing[1])[:, None], np.fft.rfftfreq(width, grid.spacing[2])
    )
    gain = np.sqrt(frequency) * np.exp(-((np.pi * frequency * scan.kernel) ** 2))
    white = rng.standard_normal((depth + 1, height, width), np.float32)
    spectrum = np.fft.rfft2(white[1:] + 0.4 * white[:-1]) * gain.astype(np.float32)
    grain = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
    # More of the beam is lost on the way to the middle.
    y, x = (axis / 75 for axis in grid.axes()[1:])
    return grain * (scan.noise / grain.std()) * (1.15 - 0.25 * (x * x + y * y))


def _draw_blood(
    hu: np.ndarray,
    anatomy: _thorax.Anatomy,
    grid: Grid,
    scan: Scan,
    artery: np.ndarray,
    vein: np.ndarray,
    clot: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Fill the vessels, in place."""
    paint, pool = _thorax.paint, _thorax.blood_pool
    paint(hu, pool(anatomy, grid, "azygos"), scan.azygos)
    mixed = np.clip(0.9 * texture(grid.shape, (7, 10, 10), rng) - 0.3, 0, 1) * scan.mixing
    level = scan.vein * (1 - mixed) + 6 * texture(grid.shape, (2, 3, 3), rng)
    atrium = np.minimum(vein, _thorax.atrium_distance(anatomy, grid))
    paint(hu, coverage(atrium), level)
    paint(hu, pool(anatomy, grid, "aorta"), scan.aorta)
    paint(hu, pool(anatomy, grid, "cava"), scan.cava + 90 * texture(grid.shape, (2, 3, 3), rng))
    swirl = np.clip(texture(grid.shape, (3, 5, 5), rng) - 1.6, 0, 1.2)
    level = scan.artery * (1 - 0.4 * swirl) + 7 * texture(grid.shape, (2, 3, 3), rng)
    lumen = coverage(artery)
    paint(hu, lumen, level)
    # Where a clot lies, there is so much less blood; its share never exceeds the lumen's.
    filled = np.minimum(coverage(clot), lumen)
    hu += filled * (scan.clot + 9 * texture(grid.shape, (1.5, 2, 2), rng) - level)


def _pulse(hu: np.ndarray, grid: Grid, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """Blend each slice near the heart with itself, displaced to either side of its place."""
    phase, angle = rng.uniform(0, 2 * np.pi), rng.uniform(0, np.pi)
    z = grid.axes()[0].ravel()
    size = 0.5 * scan.pulsation * np.clip(0.5 - z / 50, 0, 1) * np.abs(np.sin(z / 6 + phase))
    moved = hu.copy()
    for plane, half, out in zip(hu, size, moved, strict=True):
        if half > 0.15:
            way = half * np.array([np.sin(angle), np.cos(angle)]) / grid.spacing[1:]
            ends = [ndimage.shift(plane, s * way, order=1, mode="nearest") for s in (-1, 1)]
            np.mean(ends, axis=0, out=out)
    return moved


def _streaks(grid: Grid, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """Dark and bright rays from the dense upper vena cava: float32 (Z, Y, X)."""
    z, y, x = grid.axes()
    dx, dy = x - _thorax.CAVA[1][0], y - _thorax.CAVA[1][1]
    far = np.hypot(dx, dy)
    turn = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * 179).astype(int)[0]
    rays = texture((grid.shape[0], 180, 1), (1.5, 2.5, 0), rng)[..., 0]
    fall = scan.streak * np.exp(-far / 28) * np.clip((far - 5) / 5, 0, 1)
    return rays[:, turn] * fall.astype(np.float32)


def _generate(folder: pathlib.Path, seed: int, number: int) -> None:
    patient = draw_patient(seed, number)
    rng = np.random.default_rng([seed, number, 1])
    person = _dicom.draw_person(seed, number)
    spacing, half = patient.grid.spacing, patient.grid.half
    middle = (rng.uniform(-8, 8), rng.uniform(-180, -140), rng.uniform(-900, 600))
    origin = tuple(round(float(m - h), 4) for m, h in zip(middle, half, strict=True))
    scanner = _dicom.SCANNERS[number % len(_dicom.SCANNERS)]
    series = folder / person.folder
    _dicom.write_series(series, patient.hu, spacing, origin, person, scanner, rng)
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = origin
    if number % 2:
        volume_files.write_nrrd(folder / f"{person.folder}_label.nrrd", patient.labels, affine)
    else:
        volume_files.write_nifti(folder / f"{person.folder}_label.nii.gz", patient.labels, affine)


def main() -> None:
    """Write the phantom that the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as folder:
        generate(folder, values.seed, values.patients)
    print(f"{values.patients} series written: {values.output}.")
    print(f"Next: python -m data_prep.pe --input={values.output}")


if __name__ == "__main__":
    folders.define_output()
    flags.DEFINE_integer("patients", 12, "One series each, most with 3 to 6 emboli.", 1, 999)
    command.run(main, resumes=False)
