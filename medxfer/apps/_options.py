"""What a user may say about raw input that has no annotation."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of ``--mode=predict``; an app takes those that concern it.

    Attributes
    ----------
    mm_per_pixel : tuple of float or None
        Height of a pixel, and width if it is another. Goes before what an image says of itself.
    region : (x, y, width, height) or None
        Where to look, in pixels.
    every_s : float or None
        Of a video, one frame every so many seconds; None: the app's own choice.
    assets : path or None
        Files that came with the records the network learnt from.
    """

    mm_per_pixel: tuple[float, ...] | None = None
    region: tuple[int, int, int, int] | None = None
    every_s: float | None = None
    assets: pathlib.Path | None = None


NO_OPTIONS = PredictOptions()
