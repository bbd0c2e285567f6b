"""A scene filmed: frames, bubbles on wall and lens, the video file, and the folder they lie in."""

import dataclasses
import fractions
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np

from data_prep.phantoms import _endoscope
from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH, Camera, Scene, look, project

FRAMES_PER_SECOND = 5
_SHUTTER = 0.1  # share of the time between frames for which the shutter is open
_STEADY = 4.0  # pixels, longest streak that the camera's way alone leaves


@dataclasses.dataclass(frozen=True)
class Bubbles:
    """Bubbles that stick to the wall or to the lens.

    Attributes
    ----------
    places : numpy.ndarray
        float (3, N): cm in the colon; or (2, N): pixels, for the lens.
    radii : numpy.ndarray
        float (N,): cm; or pixels.
    """

    places: np.ndarray
    radii: np.ndarray


def film(
    scene: Scene,
    cameras: Sequence[Camera],
    processor: _endoscope.Processor,
    rng: np.random.Generator,
    faults: Sequence[_endoscope.Fault] | None = None,
    bubbles: Bubbles | None = None,
    drops: Sequence[Bubbles | None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Film a scene.

    Parameters
    ----------
    scene, cameras, processor
        What is filmed, from where in each frame, with what.
    rng : numpy.random.Generator
        For noise and water.
    faults : sequence of Fault, optional
        What spoils each frame.
    bubbles : Bubbles, optional
        On the wall.
    drops : sequence of Bubbles or None, optional
        On the lens, frame by frame; sharp whatever blurs the frame.

    Yields
    ------
    frame, mask : uint8 (HEIGHT, WIDTH, 3), bool (HEIGHT, WIDTH)
    """
    seen = _endoscope.field_of_view(processor.shape) > 0
    gain = None
    for number, camera in enumerate(cameras):
        view = look(scene, camera, processor.half_field, seen)
        wanted = _endoscope.exposure(view.light, processor)
        gain = wanted if gain is None else gain * (wanted / gain) ** 0.6  # the iris lags
        fault = faults[number] if faults else _endoscope.Fault()
        following = cameras[min(number + 1, len(cameras) - 1)]
        shift = _SHUTTER * _movement(camera, following, processor.half_field)
        shift *= min(1.0, _STEADY / max(float(np.hypot(*shift)), 1e-6))
        streak = (fault.streak[0] + shift[0], fault.streak[1] + shift[1])
        fault = dataclasses.replace(fault, streak=streak)
        if bubbles is not None:
            place, far = project(camera, bubbles.places, processor.half_field)
            size = bubbles.radii / far * (WIDTH / 2 / processor.half_field)
            shown = _shown(place, far, view.depth)
            light = view.light * gain
            draw_bubbles(light, place[:, shown], size[shown])
            view = dataclasses.replace(view, light=light / np.float32(gain))
        picture = _endoscope.record(view, gain, processor, fault, rng)
        if drops and drops[number] is not None:
            draw_bubbles(picture, drops[number].places, drops[number].radii)
        yield _endoscope.develop(picture, processor, rng), view.mask


def draw_bubbles(picture: np.ndarray, places: np.ndarray, radii: np.ndarray) -> None:
    """Draw bubbles at pixels (2, N) with radii (N,) into a linear picture (H, W, 3), in place.

    Each has a bright rim, a darker band within, and two images of the lamp.
    """
    for (x, y), radius in zip(places.T, radii, strict=True):
        reach = radius + 1
        left, right = int(max(np.floor(x - reach), 0)), int(min(np.ceil(x + reach) + 1, WIDTH))
        top, bottom = int(max(np.floor(y - reach), 0)), int(min(np.ceil(y + reach) + 1, HEIGHT))
        if left >= right or top >= bottom or radius < 0.7:
            continue
        rows, columns = np.ogrid[top:bottom, left:right]
        across, down = (columns - x) / radius, (rows - y) / radius
        distance = np.sqrt(across**2 + down**2)
        cover = np.clip((1 - distance) * radius + 0.5, 0, 1)
        patch = picture[top:bottom, left:right]
        level = max(0.25, float(patch.mean()))
        rim = np.exp(-(((distance - 0.92) / 0.07) ** 2)) * (0.55 - 0.25 * (across + down))
        band = 0.3 * np.exp(-(((distance - 0.75) / 0.15) ** 2))
        lamp = 2.5 * np.exp(-((across + 0.42) ** 2 + (down + 0.45) ** 2) / 0.015)
        lamp += 0.7 * np.exp(-((across - 0.5) ** 2 + (down - 0.5) ** 2) / 0.03)
        patch *= (1 - cover * band)[..., None]
        patch += (cover * level * (rim + lamp))[..., None]


def _movement(camera: Camera, following: Camera, half_field: float) -> np.ndarray:
    """How far, in pixels (right, down), what is 3 cm ahead moves to the next frame."""
    ahead = (camera.position + 3 * camera.axes[2])[:, None]
    return (
        project(following, ahead, half_field)[0] - project(camera, ahead, half_field)[0]
    ).ravel()


def _shown(place: np.ndarray, far: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Which bubbles are within the frame, and not behind a fold."""
    column, row = np.rint(place).astype(int)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    at = depth[np.clip(row, 0, HEIGHT - 1), np.clip(column, 0, WIDTH - 1)]
    return np.flatnonzero(inside & (np.abs(far - at) < 0.15 + 0.05 * far))


def draw_wall_bubbles(
    scene: Scene, count: int, z: float, rng: np.random.Generator
) -> Bubbles | None:
    """Draw ``count`` groups of bubbles on the wall near ``z``."""
    places, radii = [], []
    for _ in range(count):
        angle, along = rng.uniform(0, 2 * np.pi), z + rng.uniform(-1.5, 1.5)
        for _ in range(int(rng.integers(2, 12))):
            place = scene.point(angle + 0.1 * rng.normal(), along + 0.2 * rng.normal())
            places.append(place)
            radii.append(rng.uniform(0.03, 0.13))
    return Bubbles(np.stack(places, axis=1), np.array(radii)) if places else None


def write_video(path: pathlib.Path, frames: Iterable[np.ndarray]) -> None:
    """Encode frames uint8 (H, W, 3) at 5 a second: H.264, or MPEG-4 where there is no encoder.

    One thread and no time stamps of the day: the same frames give the same bytes.
    """
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"libx264": {"crf": "19", "preset": "fast"}, "mpeg4": {"qmin": "2", "qmax": "4"}}
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=fractions.Fraction(FRAMES_PER_SECOND))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = options[codec]
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
