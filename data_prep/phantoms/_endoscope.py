"""What lies between the light on the lens and the recorded frame: faults, exposure, processor."""

import dataclasses
import functools

import cv2
import numpy as np

from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH, View


@dataclasses.dataclass(frozen=True)
class Processor:
    """Settings of one video.

    Attributes
    ----------
    half_field : float
        Angle in radians at the left and right edge.
    shape : str
        Of the picture: ``octagon``, ``round`` or ``corners``.
    target : float
        Level, 0 to 1, that the automatic exposure gives the brighter parts.
    softness, sharpening : float
        Blur of the lens in pixels; gain of the edges.
    noise, chroma : float
        Grey values.
    tint : numpy.ndarray
        float32 (3,), white balance.
    border : int
        Grey value outside the picture.
    """

    half_field: float
    shape: str
    target: float
    softness: float
    sharpening: float
    noise: float
    chroma: float
    tint: np.ndarray
    border: int


@dataclasses.dataclass(frozen=True)
class Fault:
    """What spoils a frame, all none by default.

    Attributes
    ----------
    streak : tuple[float, float]
        Movement in pixels (right, down) while the frame is exposed.
    defocus : float
        Radius in pixels of the disc that a point becomes.
    glare : float
        Times that the exposure is too long.
    veil : float
        Share of light scattered by turbid water on the lens.
    water : numpy.ndarray
        float32 (3,), colour of the water.
    ripple : float
        Displacement in pixels by water.
    blush : float
        Share of the light that comes through the tissue pressed against the lens.
    """

    streak: tuple[float, float] = (0.0, 0.0)
    defocus: float = 0.0
    glare: float = 1.0
    veil: float = 0.0
    water: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(3, np.float32))
    ripple: float = 0.0
    blush: float = 0.0


def draw_processor(rng: np.random.Generator) -> Processor:
    """Draw an endoscope."""
    return Processor(
        half_field=rng.uniform(0.95, 1.15),
        shape=str(rng.choice(["octagon", "octagon", "round", "corners"])),
        target=rng.uniform(0.65, 0.9),
        softness=rng.uniform(0.3, 0.8),
        sharpening=rng.uniform(0.0, 0.9),
        noise=rng.uniform(0.8, 2.4),
        chroma=rng.uniform(0.5, 3.0),
        tint=rng.uniform(0.9, 1.1, 3).astype(np.float32),
        border=int(rng.integers(4, 20)),
    )


@functools.cache
def field_of_view(shape: str) -> np.ndarray:
    """Share float32 (HEIGHT, WIDTH) of each pixel that shows picture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x, y = np.abs(x - (WIDTH - 1) / 2), np.abs(y - (HEIGHT - 1) / 2)
    if shape == "octagon":
        inside = np.minimum(WIDTH * 0.43 - x, HEIGHT * 0.48 - y)
        inside = np.minimum(inside, (WIDTH * 0.43 + HEIGHT * 0.48 - 42 - x - y) / np.sqrt(2))
    elif shape == "round":
        inside = np.minimum(HEIGHT * 0.545 - np.hypot(x, y), HEIGHT * 0.485 - y)
    elif shape == "corners":
        cut = (WIDTH / 2 + HEIGHT / 2 - 62 - x - y) / np.sqrt(2)
        inside = np.minimum(np.minimum(WIDTH * 0.49 - x, HEIGHT * 0.495 - y), cut)
    else:
        raise ValueError(f"No picture of shape {shape!r}.")
    share = np.clip(inside + 0.5, 0, 1).astype(np.float32)
    share.flags.writeable = False  # callers share it
    return share


def exposure(light: np.ndarray, processor: Processor) -> float:
    """Gain that the automatic exposure tends to for linear light (HEIGHT, WIDTH, 3)."""
    inside = field_of_view(processor.shape)[::4, ::4] > 0.5
    level = np.quantile(light[::4, ::4].mean(axis=2)[inside], 0.8)
    return -np.log(1 - processor.target**2.2) / max(float(level), 1e-6)


def record(
    view: View, gain: float, processor: Processor, fault: Fault, rng: np.random.Generator
) -> np.ndarray:
    """Linear picture of a view as the lens and the sensor give it: float32 (HEIGHT, WIDTH, 3)."""
    light = view.light * (gain * processor.tint) + 1.6 * view.gloss[..., None]
    if fault.ripple:
        light = _ripple(light, fault.ripple, rng)
    if fault.defocus > 0.5:
        light = cv2.filter2D(light, -1, _disc(fault.defocus), borderType=cv2.BORDER_REFLECT)
    if np.hypot(*fault.streak) > 1.5:
        light = cv2.filter2D(light, -1, _line(fault.streak), borderType=cv2.BORDER_REFLECT)
    if fault.blush:  # light that has gone far through tissue is red and has lost its pattern
        through = cv2.resize(np.minimum(light, 1.5), (6, 4), interpolation=cv2.INTER_AREA)
        through = cv2.resize(through, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        red = np.array([1.2, 0.3, 0.16], np.float32)
        light = light * (1 - fault.blush) + fault.blush * red * through[..., :1]
    light = light * fault.glare
    if fault.glare > 1:  # so much light is scattered inside the lens
        small = cv2.resize(np.minimum(light, 6), (WIDTH // 8, HEIGHT // 8))
        small = cv2.GaussianBlur(small, (0, 0), 4)
        light = light + 0.12 * cv2.resize(small, (WIDTH, HEIGHT))
    if fault.veil:
        small = cv2.resize(light, (WIDTH // 16, HEIGHT // 16), interpolation=cv2.INTER_AREA)
        cloud = cv2.GaussianBlur(np.minimum(small, 1.5), (0, 0), 3).mean(axis=2, keepdims=True)
        patches = rng.normal(1, 0.5, (4, 5)).astype(np.float32)
        patches = cv2.resize(patches, cloud.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        share = np.clip(fault.veil * (1 + 0.4 * (patches - 1)), 0, 0.97)[..., None]
        cloud = cv2.resize(cloud * fault.water * share, (WIDTH, HEIGHT))
        light = light * (1 - cv2.resize(share, (WIDTH, HEIGHT))[..., None]) + cloud
    return light


def develop(light: np.ndarray, processor: Processor, rng: np.random.Generator) -> np.ndarray:
    """Frame uint8 (HEIGHT, WIDTH, 3) of linear light: tone curve, sharpening, noise, border."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2) / (WIDTH / 2)
    light = cv2.GaussianBlur(light, (0, 0), processor.softness)
    light = light * (1 - 0.45 * distance**2)[..., None].astype(np.float32)
    picture = 255 * np.power(1 - np.exp(-np.maximum(light, 0)), np.float32(1 / 2.2))
    grain = processor.noise * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    colour = rng.standard_normal((HEIGHT // 2, WIDTH // 2, 3), np.float32)
    colour = processor.chroma * cv2.resize(colour, (WIDTH, HEIGHT))
    picture = picture + grain + colour
    edges = picture - cv2.GaussianBlur(picture, (0, 0), 1.2)
    picture = picture + processor.sharpening * edges
    inside = field_of_view(processor.shape)[..., None]
    picture = inside * np.clip(picture, 0, 255) + (1 - inside) * processor.border
    return np.rint(picture).astype(np.uint8)


def _disc(radius: float) -> np.ndarray:
    half = int(np.ceil(radius))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return disc / disc.sum()


def _line(streak: tuple[float, float]) -> np.ndarray:
    half = int(np.ceil(max(np.abs(streak)) / 2)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    length = np.hypot(*streak)
    right, down = streak[0] / length, streak[1] / length
    along, across = np.abs(x * right + y * down), np.abs(y * right - x * down)
    line = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1.2 - across, 0, 1)
    return line / line.sum()


def _ripple(light: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    waves = rng.standard_normal((2, 6, 8)).astype(np.float32)
    right, down = (
        np.float32(size) * cv2.resize(wave, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for wave in waves
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return cv2.remap(light, x + right, y + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
