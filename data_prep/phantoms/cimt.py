"""Synthetic carotid B-mode images whose interfaces are known, written as files users have.

The far wall is simulated, not drawn: a field of random scatterers and of smooth interfaces is
blurred by the pulse and compressed as a scanner does it. Speckle is therefore fully developed
(envelope of a complex Gaussian field: Rayleigh; Burckhardt 1978), and an interface begins where
its echo begins, at the pulse's leading end: the edge at which readers measure. What makes real
walls hard is there too: drop-outs of the intima, second layers, haze, shadows, gain.

    python -m data_prep.phantoms.cimt --output=FOLDER
    python -m data_prep.cimt --input=FOLDER --output=DATA
"""

import csv
import dataclasses
import pathlib

import numpy as np
from absl import flags
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from data_prep import command, folders

WIDTH, HEIGHT = 400, 300  # pixels
VERSION = 1  # raised whenever the same seed gives other images
POINT_STEP = 5  # columns between written points
EDGE = 8  # columns at either side without an annotation
PULSE_EXTENT = 2.4  # standard deviations of the pulse before and after its centre


@dataclasses.dataclass(frozen=True)
class Wall:
    """Geometry of one image, all rows in pixels per column, float64 (WIDTH,)."""

    near: np.ndarray
    lumen_intima: np.ndarray
    media_adventitia: np.ndarray


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the images of one person share. Lengths in mm, levels in dB."""

    mm_per_pixel: float
    thickness: float
    diameter: float
    depth: float
    intima: float
    media: float
    adventitia: float
    pulse: float
    beam: float
    dynamic_range: float


def generate(
    folder: pathlib.Path, seed: int = 0, subjects: int = 24, images_per_subject: int = 2
) -> None:
    """Write ``studies.csv``, images and boundary tables (the layout of readers.boundary_csv).

    The same arguments give the same bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    seed : int
    subjects, images_per_subject : int
        Images of one subject share its anatomy and the scanner's settings.
    """
    folder = pathlib.Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "boundaries").mkdir(exist_ok=True)
    studies = []
    for number in range(subjects):
        subject = draw_subject(np.random.default_rng([seed, number]))
        for index in range(images_per_subject):
            rng = np.random.default_rng([seed, number, index + 1])
            wall = draw_wall(subject, rng)
            case = f"S{number:03d}_{index}"
            image, boundaries = f"images/{case}.png", f"boundaries/{case}.csv"
            Image.fromarray(render(subject, wall, rng)).save(folder / image)
            _write(folder / boundaries, ("interface", "x", "y"), _points(wall))
            scale = f"{subject.mm_per_pixel:.6f}"
            studies.append((image, boundaries, f"S{number:03d}", scale, case))
    heading = ("image", "boundaries", "subject", "mm_per_pixel", "case")
    _write(folder / "studies.csv", heading, studies)


def ensure(cache: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Folder of the phantom with the default size, generated if it is not in ``cache`` yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    return folders.ensure(
        cache, f"cimt-phantom-{VERSION}-{seed}", lambda folder: generate(folder, seed)
    )


def draw_subject(rng: np.random.Generator) -> Subject:
    """Draw a person and scanner settings."""
    return Subject(
        mm_per_pixel=round(rng.uniform(0.054, 0.066), 6),
        thickness=rng.uniform(0.5, 1.02),
        diameter=rng.uniform(4.8, 6.5),
        depth=rng.uniform(3.5, 5.0),
        intima=rng.uniform(-31, -19),
        media=rng.uniform(-40, -34),
        adventitia=rng.uniform(-7, -1),
        pulse=rng.uniform(0.09, 0.14),
        beam=rng.uniform(0.28, 0.5),
        dynamic_range=rng.uniform(50, 60),
    )


def draw_wall(subject: Subject, rng: np.random.Generator) -> Wall:
    """Draw tilt, bend and thickness along the vessel; thickness stays within .45 to 1.1 mm."""
    x = np.linspace(-1, 1, WIDTH)
    tilt, bend = rng.uniform(-0.9, 0.9), rng.uniform(-0.8, 0.8)
    shape = tilt * x + bend * x**2 + 0.1 * _wave(rng, WIDTH / 3)
    near = subject.depth + shape + 0.15 * _wave(rng, WIDTH / 4)
    top = subject.depth + subject.diameter + shape
    thickness = subject.thickness * (1 + 0.07 * _wave(rng, WIDTH / 6))
    bottom = top + np.clip(thickness, 0.45, 1.1)
    return Wall(*(rows / subject.mm_per_pixel for rows in (near, top, bottom)))


def render(subject: Subject, wall: Wall, rng: np.random.Generator) -> np.ndarray:
    """Image of a wall: uint8 (HEIGHT, WIDTH)."""
    scatterers, interfaces = _tissue(subject, wall, rng)
    noise = rng.standard_normal((2, HEIGHT, WIDTH))
    pulse, beam = subject.pulse / subject.mm_per_pixel, subject.beam / subject.mm_per_pixel
    echo = receive(np.sqrt(scatterers / 2) * (noise[0] + 1j * noise[1]), pulse, beam)
    echo /= np.sqrt((pulse_weights(pulse) ** 2).sum() / (2 * beam * np.sqrt(np.pi)))
    echo += receive(interfaces, pulse, beam)
    power = np.abs(echo) ** 2 * _power(_gain(subject, wall, rng))
    power += _power(-62) * rng.exponential(size=power.shape)  # the receiver's own noise
    grey = 255 * (1 + 10 * np.log10(power) / subject.dynamic_range)
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def pulse_weights(pulse: float) -> np.ndarray:
    """Envelope of the pulse, sampled from its leading end on; its greatest value is about 1.

    Parameters
    ----------
    pulse : float
        Standard deviation in pixels of the Gaussian, which is cut at ``PULSE_EXTENT`` of them.
    """
    half = PULSE_EXTENT * pulse
    times = np.arange(int(2 * half) + 1)
    return np.exp(-0.5 * ((times - half) / pulse) ** 2)


def receive(field: np.ndarray, pulse: float, beam: float) -> np.ndarray:
    """Echoes as they arrive: never before the pulse's leading end has reached their depth.

    Parameters
    ----------
    field : numpy.ndarray
        complex128 (H, W): amplitude and phase of what each pixel reflects.
    pulse, beam : float
        Standard deviations in pixels of the pulse (down) and the beam (along).

    Returns
    -------
    numpy.ndarray
        complex128 (H, W). A smooth interface keeps its amplitude at the peak; of independent
        scatterers the power is multiplied by the sum of the squared weights.
    """
    late = np.zeros_like(field)
    for lag, weight in enumerate(pulse_weights(pulse)):
        late[lag:] += weight * field[: len(field) - lag]
    return gaussian_filter1d(late.real, beam) + 1j * gaussian_filter1d(late.imag, beam)


def _tissue(
    subject: Subject, wall: Wall, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Power of the scatterers (H, W) and complex amplitude of the interfaces (H, W)."""
    below_near, below_li, below_ma = (
        (np.arange(HEIGHT)[:, None] - rows) * subject.mm_per_pixel
        for rows in (wall.near, wall.lumen_intima, wall.media_adventitia)
    )
    pixel = subject.mm_per_pixel
    scatterers = _power(-19 + 6 * _texture(rng, 3, 50))  # muscle above the vessel

    def layer(depth: np.ndarray, level: np.ndarray | float) -> None:
        """Replace all that lies below an interface, with edges finer than a pixel."""
        share = np.clip(depth / pixel + 0.5, 0, 1)
        scatterers[:] = (1 - share) * scatterers + share * _power(level)

    layer(below_near + rng.uniform(1.2, 1.8), -10 + 4 * _texture(rng, 4, 20))
    layer(below_near + subject.thickness, -30)
    layer(below_near + 0.12, subject.intima)
    haze = 18 * np.exp(-np.maximum(below_near, 0) / rng.uniform(0.5, 1.5))
    layer(below_near, rng.uniform(-54, -46) + haze + 4 * _texture(rng, 6, 15))
    layer(below_li, subject.intima - 8)
    layer(below_li - 0.12, subject.media + 3 * _texture(rng, 4, 25))
    layer(below_ma, subject.adventitia - 5 + 4 * _texture(rng, 3, 25))
    decay = np.maximum(below_ma - rng.uniform(0.3, 0.8), 0) * rng.uniform(3, 7)
    behind = subject.adventitia - 10 - np.minimum(decay, 22) + 6 * _texture(rng, 4, 25)
    layer(below_ma - 0.4 - 0.15 * _wave(rng, 60), behind)

    interfaces = np.zeros((HEIGHT, WIDTH), complex)

    def line(rows: np.ndarray, level: np.ndarray) -> None:
        """Add a smooth interface: one pixel thick, its phase wandering slowly along it."""
        share = np.maximum(1 - np.abs(np.arange(HEIGHT)[:, None] - rows), 0)
        phase = np.exp(1j * (rng.uniform(0, 2 * np.pi) + 0.8 * _wave(rng, 20)))
        interfaces[:] += share * np.sqrt(_power(level)) * phase

    li, ma = wall.lumen_intima, wall.media_adventitia
    dropout = -22 / (1 + np.exp(-(_wave(rng, 18) - rng.uniform(0.5, 1.2)) / 0.15))
    line(li, subject.intima + 2 * _wave(rng, 25) + dropout)
    line(ma, subject.adventitia - 5 + 4 * _wave(rng, 20))
    line(wall.near, np.full(WIDTH, subject.intima - 2))
    # What misleads: an echo of the near wall in the lumen, a layer in the media, layers behind.
    line(li - rng.uniform(0.7, 1.7) / pixel, -27 + _interval(rng) + 2 * _wave(rng, 15))
    within = rng.uniform(0.35, 0.7)
    line((1 - within) * li + within * ma, subject.intima - 5 + _interval(rng))
    for _ in range(2):
        line(ma + rng.uniform(0.5, 1.6) / pixel, subject.adventitia + 2 + _interval(rng))
    return scatterers, interfaces


def _gain(subject: Subject, wall: Wall, rng: np.random.Generator) -> np.ndarray:
    """Gain in dB (H, W): overall, depth compensation that misses, shadows, weak sides."""
    depth = np.arange(HEIGHT)[:, None] * subject.mm_per_pixel
    gain = rng.uniform(-9, 0) + 2.5 * np.sin(depth / rng.uniform(2, 5) + rng.uniform(0, 6))
    gain = gain - np.maximum(depth - 12, 0) * rng.uniform(0.5, 2)
    columns = np.arange(WIDTH)
    sides = np.minimum(columns, WIDTH - 1 - columns) / 40
    gain = gain - rng.uniform(2, 8) * np.exp(-(sides**2))
    for _ in range(rng.integers(0, 3)):
        band = np.exp(-(((columns - rng.uniform(0, WIDTH)) / rng.uniform(6, 25)) ** 2))
        gain = gain - rng.uniform(5, 16) * band * (np.arange(HEIGHT)[:, None] > wall.near)
    return gain


def _power(level: np.ndarray | float) -> np.ndarray | float:
    return 10.0 ** (level / 10)


def _wave(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth random curve (WIDTH,), about standard normal, ``scale`` pixels long."""
    curve = gaussian_filter1d(rng.standard_normal(WIDTH + 8 * int(scale)), scale)
    start = 4 * int(scale)
    return curve[start : start + WIDTH] * np.sqrt(2 * scale * np.sqrt(np.pi))


def _texture(rng: np.random.Generator, down: float, along: float) -> np.ndarray:
    """Smooth random field (H, W), about standard normal, with the given lengths in pixels."""
    field = gaussian_filter1d(rng.standard_normal((HEIGHT, WIDTH)), down, axis=0)
    field = gaussian_filter1d(field, along, axis=1)
    return field * np.sqrt(4 * np.pi * down * along)


def _interval(rng: np.random.Generator) -> np.ndarray:
    """Level in dB (WIDTH,) of what is seen over a stretch only or, one time in three, nowhere."""
    centre, half = rng.uniform(0, WIDTH), rng.uniform(25, 90)
    if rng.random() < 1 / 3:
        return np.full(WIDTH, -60.0)
    return -40 / (1 + np.exp(-(np.abs(np.arange(WIDTH) - centre) - half) / 4))


def _points(wall: Wall) -> list[tuple[str, str, str]]:
    columns = np.arange(EDGE, WIDTH - EDGE, POINT_STEP)
    return [
        (name, str(x), f"{rows[x]:.3f}")
        for name in ("lumen_intima", "media_adventitia")
        for x, rows in ((x, getattr(wall, name)) for x in columns)
    ]


def _write(path: pathlib.Path, heading: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(heading)
        table.writerows(rows)


def main() -> None:
    """Write the phantom that the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as folder:
        generate(folder, values.seed, values.subjects, values.images_per_subject)
    count = values.subjects * values.images_per_subject
    print(f"{count} images written: {values.output}.")
    print(f"Next: python -m data_prep.cimt --input={values.output}")


if __name__ == "__main__":
    folders.define_output()
    flags.DEFINE_integer("subjects", 24, "Persons; enough for 10 or more in each part.", 1)
    flags.DEFINE_integer("images_per_subject", 2, "As left and right of a person.", 1)
    command.run(main, resumes=False)
