"""Synthetic colonoscopy videos whose frames are labelled informative or uninformative.

Frames are spoilt by fast movement, loss of focus, contact with the wall, foam, water and too much
light. What is easy to measure misleads: good frames may be of a smooth wall, slightly soft or
noisy; spoilt ones may be full of sharp edges, as of bubbles, glare and drops on the lens.

    python -m data_prep.phantoms.frame --output=FOLDER
    python -m data_prep.frame --input=FOLDER --output=DATA
"""

import concurrent.futures
import csv
import dataclasses
import functools
import pathlib

import numpy as np
from absl import flags

from data_prep import command, folders
from data_prep.phantoms import _endoscope, _film, _passage, polyp
from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH, Camera, Scene, march, unit

VERSION = 1  # raised whenever the same seed gives other videos
KINDS = ("motion", "defocus", "contact", "foam", "water", "glare")
LABELS = "frame_quality_labels.csv"
_SPOILT = 0.8  # strength of a fault from which on a frame is uninformative


@dataclasses.dataclass(frozen=True)
class Event:
    """A stretch of frames with one fault.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    start : int
        Its first frame.
    strengths : tuple of float
        Frame by frame: 0 none; up to 0.3 visible and harmless; from 0.8 on uninformative.
    """

    kind: str
    start: int
    strengths: tuple[float, ...]


def generate(folder: pathlib.Path, seed: int = 0, videos: int = 8, frames: int = 40) -> None:
    """Write ``NAME.mp4`` and ``frame_quality_labels.csv`` with video, frame_index and label.

    Frames between good and spoilt have no row in the table. The same arguments give the same
    bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    seed : int
    videos, frames : int
        Videos, and frames of each, at 5 a second.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Two threads: the time goes into array operations, which run beside each other.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(functools.partial(_generate, folder, seed, frames), range(videos)))
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("video", "frame_index", "label"))
        table.writerows(row for video in rows for row in video)


def ensure(cache: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Folder of the phantom with the default size, generated if it is not in ``cache`` yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    return folders.ensure(
        cache, f"frame-phantom-{VERSION}-{seed}", lambda folder: generate(folder, seed)
    )


def draw_events(frames: int, rng: np.random.Generator) -> list[Event]:
    """Draw faults for a video: about half of its frames, every kind once before one comes twice."""
    events: list[Event] = []
    start, waiting = int(rng.integers(0, 4)), []
    while True:
        waiting = waiting or list(rng.permutation(KINDS))
        length = int(rng.integers(4, 8))
        if start + length > frames:
            return events
        strengths = np.append(0.5, rng.uniform(0.85, 1.0, length - 1))
        strengths[-1] = 0.5
        events.append(Event(str(waiting.pop()), start, tuple(strengths)))
        start += length
        gap = int(rng.integers(2, 6))
        if (
            2 < gap <= frames - start and rng.random() < 0.6
        ):  # a harmless dose, of a kind that has one
            kind = str(rng.choice(["defocus", "foam", "water", "glare"]))
            dose = tuple(rng.uniform(0.12, 0.3, gap - 1))
            events.append(Event(kind, start, dose))
        start += gap


def label(strength: float) -> str | None:
    """Label of a frame whose worst fault has a strength; None where readers would differ."""
    if strength >= _SPOILT:
        return "uninformative"
    return "informative" if strength <= 0.3 else None


def _generate(
    folder: pathlib.Path, seed: int, frames: int, number: int
) -> list[tuple[str, int, str]]:
    rng = np.random.default_rng([seed, number])
    processor = _endoscope.draw_processor(rng)
    scene, cameras = polyp.draw_scene(processor, frames, number % 3 == 0, rng)
    events = draw_events(frames, rng)
    faults = [
        _endoscope.Fault(defocus=rng.choice([0.0, rng.uniform(0, 1.5)])) for _ in range(frames)
    ]
    drops: list[_film.Bubbles | None] = [None] * frames
    worst = np.zeros(frames)
    for event in events:
        spoil = _Spoiler(event.kind, rng)
        if event.kind == "contact":
            _touch(scene, cameras, event, rng)
        for offset, strength in enumerate(event.strengths):
            at = event.start + offset
            faults[at] = spoil.fault(strength, rng)
            drops[at] = spoil.drops(strength, offset)
            worst[at] = max(worst[at], strength)
    bubbles = _film.draw_wall_bubbles(
        scene, int(rng.integers(0, 4)), cameras[0].position[2] + 2, rng
    )
    name = f"video_{number:02d}.mp4"
    film = _film.film(scene, cameras, processor, rng, faults, bubbles, drops)
    _film.write_video(folder / name, (image for image, _ in film))
    return [(name, at, label(s)) for at, s in enumerate(worst) if label(s) is not None]


class _Spoiler:
    """One event's fault, frame by frame: drawn once, then scaled by the strength."""

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        self.kind = kind
        self.size = rng.uniform(0.8, 1.3)
        self.angle = rng.uniform(0, 2 * np.pi)
        # Yellow to brown, or milky.
        hue = [1, rng.uniform(0.65, 0.85), rng.uniform(0.2, 0.55)]
        hue = hue if rng.random() < 0.6 else [1, 0.95, 0.88]
        self.water = (rng.uniform(0.6, 1.1) * np.array(hue)).astype(np.float32)
        # Most events leave sharp drops on the lens, whatever blurs the rest.
        few = int(rng.integers(0, 8)) if kind in ("motion", "defocus", "water", "contact") else 0
        count = {"foam": int(rng.integers(160, 320))}.get(kind, few)
        middle = rng.uniform([0.3, 0.3], [0.7, 0.7]) * [WIDTH, HEIGHT]
        spread = np.array([WIDTH, HEIGHT]) * rng.uniform(0.2, 0.35)
        places = middle + spread * rng.normal(size=(count, 2))
        if kind != "foam":
            places = rng.uniform([0, 0], [WIDTH, HEIGHT], (count, 2))
        radii = np.exp(rng.normal(2.2, 0.55, count)) * self.size
        self.bubbles = _film.Bubbles(places.T, np.minimum(radii, 45))
        self.drift = rng.normal(0, 2.5, (2, 1))

    def fault(self, strength: float, rng: np.random.Generator) -> _endoscope.Fault:
        """Fault of one frame."""
        size = strength * self.size * rng.uniform(0.85, 1.15)
        if self.kind == "motion":
            angle = self.angle + rng.normal(0, 0.4)
            return _endoscope.Fault(streak=(38 * size * np.cos(angle), 38 * size * np.sin(angle)))
        if self.kind == "defocus":
            return _endoscope.Fault(defocus=6.5 * size)
        if self.kind == "contact":
            return _endoscope.Fault(
                defocus=7 * size, glare=1 + 0.2 * size, blush=min(0.9 * size, 0.95)
            )
        if self.kind == "water":
            return _endoscope.Fault(
                veil=min(0.85 * size, 0.92), ripple=9 * size, water=self.water, defocus=2.0 * size
            )
        if self.kind == "glare":
            return _endoscope.Fault(glare=1 + 9 * size**2)
        return _endoscope.Fault(defocus=1.0 * size)

    def drops(self, strength: float, offset: int) -> _film.Bubbles | None:
        """Bubbles on the lens in one frame, ``offset`` frames after the event began."""
        count = int(len(self.bubbles.radii) * min(1, strength**2))
        if not count:
            return None
        places = self.bubbles.places[:, :count] + offset * self.drift
        return _film.Bubbles(places, self.bubbles.radii[:count])


def _touch(scene: Scene, cameras: list[Camera], event: Event, rng: np.random.Generator) -> None:
    """Move the cameras of an event against the wall, in place."""
    first = cameras[event.start]
    aim = unit(first.axes[2] + 1.2 * rng.standard_normal(3)).astype(np.float32)
    reached = march(scene, first, aim[:, None], np.array([0.05]))
    place = first.position + reached * aim
    inward = scene.normals(place[:, None])[0][:, 0]
    roll = rng.uniform(0, 2 * np.pi)
    for offset, strength in enumerate(event.strengths):
        at = event.start + offset
        share = min(strength / 0.9, 1.0)
        near = place + inward * rng.uniform(0.3, 0.5)
        position = (1 - share) * cameras[at].position + share * near
        forward = unit((1 - share) * cameras[at].axes[2] - share * inward)
        cameras[at] = _passage.camera(position, forward, roll + 0.05 * rng.normal())


def main() -> None:
    """Write the phantom that the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as folder:
        generate(folder, values.seed, values.videos, values.frames)
    print(f"{values.videos} videos written: {values.output}.")
    print(f"Next: python -m data_prep.frame --input={values.output}")


if __name__ == "__main__":
    folders.define_output()
    flags.DEFINE_integer("videos", 8, "Each has good and spoilt frames.", 1)
    flags.DEFINE_integer("frames", 40, "Frames of a video, at 5 a second.", 1)
    command.run(main, resumes=False)
