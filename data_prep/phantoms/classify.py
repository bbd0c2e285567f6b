"""Synthetic ultrasound images of nodules, whose outline and inner texture say their class.

Smooth nodules have even borders and fine speckle; lobulated ones bulge and are clumped inside;
spiculated ones have fine rays and streaks. The classes overlap. Gain, depth, tissue, size of the
nodule and whether it is darker or brighter than what surrounds it are drawn alike for all classes,
so no brightness gives the answer. A subject has one to three images of one nodule, of which only
the view and the speckle differ.

    python -m data_prep.phantoms.classify --output=FOLDER
    python -m data_prep.classify --input=FOLDER --output=DATA
"""

import concurrent.futures
import csv
import dataclasses
import functools
import pathlib

import numpy as np
from absl import flags
from PIL import Image
from scipy import ndimage

from data_prep import command, folders

VERSION = 1  # raised whenever the same seed gives other images
CLASSES = ("lobulated", "smooth", "spiculated")
TABLE = "images.csv"
ANGLES = 721  # at which an outline is drawn
LOOKS = 2  # of which the device averages the speckle
SIZES = ((168, 224), (192, 192), (150, 210), (224, 180))  # height, width


@dataclasses.dataclass(frozen=True)
class Nodule:
    """What is the same in all images of a nodule.

    Attributes
    ----------
    kind : str
        Of ``CLASSES``.
    radius : float
        Share of the image's shorter side.
    longer : float
        Width over height.
    bulges, rays : numpy.ndarray
        complex: Fourier coefficients of the outline, low and high orders, relative to the radius.
    clumps, streaks : float
        How much of the inner texture is coarse, and how much runs one way.
    contrast : float
        Logarithm of inner over outer brightness.
    """

    kind: str
    radius: float
    longer: float
    bulges: np.ndarray
    rays: np.ndarray
    clumps: float
    streaks: float
    contrast: float


def generate(
    folder: pathlib.Path,
    seed: int = 0,
    subjects: int = 120,
    multilabel: bool = False,
    classes: int = 3,
) -> None:
    """Write ``images/*.png`` and ``images.csv`` with path, label and subject.

    The same arguments give the same bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    seed : int
    subjects : int
        Each has one to three images, two on average.
    multilabel : bool
        An image shows up to three nodules of different classes, or none, instead of one.
    classes : int
        2 (lobulated, smooth) or 3.
    """
    folder = pathlib.Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    # Two threads: the time goes into array operations, which run beside each other.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        work = functools.partial(_generate, folder, seed, CLASSES[:classes], multilabel)
        rows = [row for own in pool.map(work, range(subjects)) for row in own]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "label", "subject"))
        table.writerows(rows)


def ensure(cache: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Folder of the phantom with the default size, generated if it is not in ``cache`` yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    return folders.ensure(
        cache, f"classify-phantom-{VERSION}-{seed}", lambda folder: generate(folder, seed)
    )


def _generate(
    folder: pathlib.Path, seed: int, classes: tuple[str, ...], multilabel: bool, number: int
) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng([seed, number])
    kinds = [classes[number % len(classes)]]
    if multilabel:
        kinds = [kind for kind in classes if rng.random() < 0.4]
    nodules = [draw_nodule(kind, rng, 0.55 if multilabel else 1.0) for kind in kinds]
    tissue = _Tissue(rng)
    rows = []
    for view in range(int(rng.integers(1, 4))):
        name = f"images/subject{number:03d}_view{view}.png"
        Image.fromarray(tissue.image(nodules, rng)).save(folder / name)
        rows.append((name, "|".join(kinds), f"subject{number:03d}"))
    return rows


def draw_nodule(kind: str, rng: np.random.Generator, size: float = 1.0) -> Nodule:
    """Draw a nodule of a class; what does not tell the class is drawn alike for all."""
    bulge = {"lobulated": 0.17, "smooth": 0.06, "spiculated": 0.09}[kind] * rng.uniform(0.6, 1.4)
    ray = {"lobulated": 0.02, "smooth": 0.015, "spiculated": 0.1}[kind] * rng.uniform(0.5, 1.3)
    clumps = {"lobulated": 0.75, "smooth": 0.2, "spiculated": 0.4}[kind] + rng.normal(0, 0.15)
    streaks = {"lobulated": 0.2, "smooth": 0.15, "spiculated": 0.65}[kind] + rng.normal(0, 0.15)
    return Nodule(
        kind,
        size * rng.uniform(0.22, 0.34),
        rng.uniform(1.0, 1.6),
        bulge * _harmonics(4, rng),
        ray * _harmonics(10, rng),
        float(np.clip(clumps, 0, 1)),
        float(np.clip(streaks, 0, 1)),
        rng.choice([-1, 1]) * rng.uniform(0.3, 1.0),
    )


def _harmonics(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random coefficients of so many orders; the curve has a standard deviation of 1."""
    found = rng.normal(size=count) + 1j * rng.normal(size=count)
    return found * np.sqrt(2 / (np.abs(found) ** 2).sum())


class _Tissue:
    """What surrounds the nodules of a subject, and how the device shows it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.shape = SIZES[int(rng.integers(len(SIZES)))]
        self.speckle = rng.uniform(0.8, 1.5)
        self.gain = rng.uniform(0.55, 1.5)
        self.decay = rng.uniform(-0.6, 0.4)
        self.gamma = rng.uniform(0.4, 0.6)
        self.layers = rng.normal(size=6)
        self.places = [(-0.22, -0.22), (0.2, 0.22), (-0.2, 0.24), (0.22, -0.2)]

    def image(self, nodules: list[Nodule], rng: np.random.Generator) -> np.ndarray:
        """One view, uint8 (H, W): the same nodules turned a little, other speckle."""
        height, width = self.shape
        rows, columns = np.mgrid[:height, :width].astype(np.float64)
        down = rows / height
        bend = 0.1 * np.sin(columns / width * np.pi * rng.uniform(0.5, 2) + rng.uniform(0, 6))
        orders = np.arange(1, len(self.layers) + 1)
        waves = np.cos(np.pi * (down + bend)[..., None] * orders * 1.7) @ (self.layers / orders)
        light = 0.16 * waves + self.decay * down
        texture = _smooth(rng, self.shape, (self.speckle * 4,) * 2) * 0.16
        places = [(0.0, 0.0)] if len(nodules) == 1 else self.places
        for nodule, (y, x) in zip(nodules, places, strict=False):
            place = np.array([0.5 + y, 0.5 + x]) + rng.uniform(-0.05, 0.05, 2)
            inside = _cover(nodule, rows, columns, place * self.shape, min(self.shape), rng)
            light = light + inside * nodule.contrast
            texture = texture * (1 - inside) + inside * self._inner(nodule, rng)
        # Developed speckle, compounded of looks: each is the size of a complex Gaussian field.
        grain = (self.speckle * 0.6, self.speckle)
        field = np.array([_smooth(rng, self.shape, grain) for _ in range(2 * LOOKS)])
        amplitude = np.hypot(field[::2], field[1::2]).mean(axis=0) * np.exp(light + texture)
        amplitude *= self.gain / amplitude.mean()
        shown = 110 * amplitude**self.gamma + rng.normal(0, 3, self.shape)
        return np.clip(np.rint(shown), 0, 255).astype(np.uint8)

    def _inner(self, nodule: Nodule, rng: np.random.Generator) -> np.ndarray:
        coarse = nodule.clumps * _smooth(rng, self.shape, (6, 6))
        along = nodule.streaks * _smooth(rng, self.shape, (1, 9))
        return 0.45 * (coarse + along)


def _smooth(
    rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]
) -> np.ndarray:
    """Gaussian noise smoothed to a grain, of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return noise / noise.std()


def _cover(
    nodule: Nodule,
    rows: np.ndarray,
    columns: np.ndarray,
    centre: np.ndarray,
    side: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """How much of each pixel the nodule covers, 0 to 1."""
    turn = rng.normal(0, 0.3)
    radius = nodule.radius * side * rng.uniform(0.9, 1.1)
    angles = np.linspace(-np.pi, np.pi, ANGLES)
    own = angles - turn
    outline = 1 / np.hypot(np.cos(own) / np.sqrt(nodule.longer), np.sin(own) * nodule.longer**0.5)
    for first, coefficients in ((2, nodule.bulges), (9, nodule.rays)):
        orders = np.arange(first, first + len(coefficients))
        outline *= 1 + (np.exp(1j * np.outer(own, orders)) @ coefficients).real
    down, across = rows - centre[0], columns - centre[1]
    reach = np.interp(np.arctan2(down, across), angles, radius * outline)
    return ndimage.gaussian_filter(np.clip(reach - np.hypot(down, across) + 0.5, 0, 1), 0.8)


def main() -> None:
    """Write the phantom that the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as folder:
        generate(folder, values.seed, values.subjects, values.multilabel, values.classes)
    print(f"Images of {values.subjects} subjects written: {values.output}.")
    print(f"Next: python -m data_prep.classify --input={values.output}")


if __name__ == "__main__":
    folders.define_output()
    flags.DEFINE_integer("subjects", 120, "Each has one to three images.", 1)
    flags.DEFINE_bool("multilabel", False, "Images show several nodules, or none.")
    flags.DEFINE_integer("classes", len(CLASSES), "Kinds of nodules.", 2, len(CLASSES))
    command.run(main, resumes=False)
