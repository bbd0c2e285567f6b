"""Synthetic colonoscopy videos with polyps and their masks.

Flat, sessile and pedunculated polyps stand on the wall of a colon through which the camera moves;
half of the videos have none. Many polyps have the mucosa's colour; flat spots and residue have the
polyps' colour; folds and bubbles are as round. So neither colour nor roundness alone finds them.

    python -m data_prep.phantoms.polyp --output=FOLDER
    python -m data_prep.polyp --input=FOLDER --output=DATA
"""

import concurrent.futures
import dataclasses
import functools
import pathlib

import numpy as np
from absl import flags
from PIL import Image
from scipy import ndimage

from data_prep import command, folders
from data_prep.phantoms import _endoscope, _film, _mucosa, _passage
from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH, Camera, Lump, Scene, march, project

VERSION = 1  # raised whenever the same seed gives other videos
MIN_PIXELS = 30  # smaller parts of a polyp, at the edge of a fold, are in no mask
_TRIES = 40


def generate(folder: pathlib.Path, seed: int = 0, videos: int = 12, frames: int = 20) -> None:
    """Write ``NAME.mp4`` and ``NAME_masks/%06d.png``, the masks of frames that show a polyp.

    The same arguments give the same bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    seed : int
    videos : int
        Every other one, from the first on, has a polyp or two; the others' folders of masks are
        empty.
    frames : int
        Frames of a video, at 5 a second.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Two threads: the time goes into array operations, which run beside each other.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(functools.partial(_generate, folder, seed, frames), range(videos)))


def ensure(cache: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Folder of the phantom with the default size, generated if it is not in ``cache`` yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    return folders.ensure(
        cache, f"polyp-phantom-{VERSION}-{seed}", lambda folder: generate(folder, seed)
    )


def _generate(folder: pathlib.Path, seed: int, frames: int, number: int) -> None:
    rng = np.random.default_rng([seed, number])
    processor = _endoscope.draw_processor(rng)
    scene, cameras = draw_scene(processor, frames, number % 2 == 0, rng)
    bubbles = _film.draw_wall_bubbles(
        scene, int(rng.integers(0, 5)), cameras[0].position[2] + 2, rng
    )
    faults = [_endoscope.Fault(defocus=rng.uniform(0, 1.2)) for _ in cameras]
    name = f"video_{number:02d}"
    masks = folder / f"{name}_masks"
    masks.mkdir()
    images = []
    for index, (image, mask) in enumerate(
        _film.film(scene, cameras, processor, rng, faults, bubbles)
    ):
        images.append(image)
        mask = _visible(mask, processor)
        if mask.any():
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{index:06d}.png")
    _film.write_video(folder / f"{name}.mp4", images)


def draw_scene(
    processor: _endoscope.Processor, frames: int, polyps: bool, rng: np.random.Generator
) -> tuple[Scene, list[Camera]]:
    """Draw a colon with its lumps and a way through it.

    A polyp's place is drawn again until the camera sees it in most frames.
    """
    style = _mucosa.draw_style(rng)
    scene = Scene(style, _mucosa.draw_wall(style, rng), _passage.draw_bend(rng))
    residue = [
        _passage.draw_residue(scene, rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 6.5), rng)
        for _ in range(int(rng.integers(2, 7)))
    ]
    scene = dataclasses.replace(scene, lumps=tuple(residue))
    if not polyps:
        spot = scene.point(rng.uniform(0, 2 * np.pi), rng.uniform(2.5, 4.5))
        return scene, _passage.draw_cameras(scene, frames, rng, spot)
    best = (-1.0, scene, [])
    for _ in range(_TRIES):
        angle, z = rng.uniform(0, 2 * np.pi), rng.uniform(2.4, 4.4)
        polyp = _passage.draw_polyp(scene, angle, z, rng)
        lumps = [polyp]
        if rng.random() < 0.25:
            beside = angle + rng.choice([-1, 1]) * rng.uniform(0.6, 1.2)
            lumps.append(_passage.draw_polyp(scene, beside, z + rng.uniform(-0.8, 0.8), rng))
        trial = dataclasses.replace(scene, lumps=(*lumps, *residue))
        cameras = _passage.draw_cameras(trial, frames, rng, polyp.centre)
        share = seen_share(trial, cameras, polyp, processor)
        if share > best[0]:
            best = (share, trial, cameras)
        if share > 0.7:
            break
    return best[1], best[2]


def seen_share(
    scene: Scene, cameras: list[Camera], lump: Lump, processor: _endoscope.Processor
) -> float:
    """Share of the cameras that see half of a lump or more, of nine points on its lumen side."""
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = np.stack([np.append(0.7 * np.cos(turn), 0), np.append(0.7 * np.sin(turn), 0)])
    ring = lump.axes[:2].T @ (ring * lump.radii[:2, None]).astype(np.float32)
    points = lump.centre[:, None] + 0.6 * lump.radii[2] * lump.axes[2][:, None] + ring
    inside = _endoscope.field_of_view(processor.shape) > 0
    seen = 0
    for camera in cameras[:: max(len(cameras) // 6, 1)]:
        (column, row), far = project(camera, points, processor.half_field)
        column, row = np.rint(column).astype(int), np.rint(row).astype(int)
        within = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
        within &= inside[np.clip(row, 0, HEIGHT - 1), np.clip(column, 0, WIDTH - 1)]
        way = ((points - camera.position[:, None]) / far).astype(np.float32)
        reached = march(scene, camera, way, np.full(9, 0.05, np.float32))
        seen += np.mean(within & (reached > far - lump.radii.max())) >= 0.5
    return seen / len(cameras[:: max(len(cameras) // 6, 1)])


def _visible(mask: np.ndarray, processor: _endoscope.Processor) -> np.ndarray:
    """Parts of a mask that lie in the picture and have ``MIN_PIXELS`` or more: bool (H, W)."""
    parts, _ = ndimage.label(mask & (_endoscope.field_of_view(processor.shape) >= 0.5))
    large = np.bincount(parts.ravel()) >= MIN_PIXELS
    large[0] = False
    return large[parts]


def main() -> None:
    """Write the phantom that the flags ask for."""
    values = flags.FLAGS
    with folders.new_output() as folder:
        generate(folder, values.seed, values.videos, values.frames)
    print(f"{values.videos} videos written: {values.output}.")
    print(f"Next: python -m data_prep.polyp --input={values.output}")


if __name__ == "__main__":
    folders.define_output()
    flags.DEFINE_integer("videos", 12, "Half of them show polyps.", 1)
    flags.DEFINE_integer("frames", 20, "Frames of a video, at 5 a second.", 1)
    command.run(main, resumes=False)
