"""Raw colonoscopy material for prediction: what is there, and frames of it one by one."""

import pathlib
from collections.abc import Iterator

from data_prep.readers import _colonoscopy, _frames, _video
from data_prep.readers._colonoscopy import Frame, Sampling
from data_prep.readers._images import Unusable


def raw_inputs(source: pathlib.Path) -> list[pathlib.Path]:
    """Videos of a file or folder; where there is none, folders that hold images."""
    if source.is_file():
        return [source]
    files = sorted(path for path in source.rglob("*") if path.is_file())
    videos = [path for path in files if path.suffix.lower() in _video.SUFFIXES]
    return videos or sorted({path.parent for path in files if _frames.is_image(path)})


def frames(path: pathlib.Path, every_s: float | None, notes: list[str]) -> Iterator[Frame]:
    """Frames of one video, image or folder of images, in order.

    What was changed on the way is added to ``notes`` after the last one.

    Raises
    ------
    UserError
        If a video cannot be read to its end, or no image can be read.
    """
    cases = _colonoscopy.find(path)
    # A folder of stills may be a case for each image: one that is damaged is left out.
    number, reason = 0, None
    for case in cases:
        try:
            for frame in _colonoscopy.frames(case, Sampling(every_s=every_s), notes):
                yield frame if len(cases) == 1 else _renumbered(frame, number)
                number += 1
        except Unusable as error:
            if case.video:
                raise
            reason = reason or error
            notes.append(f"left out: {error}")
    if reason and not number:
        raise reason


def _renumbered(frame: Frame, number: int) -> Frame:
    return Frame(number, None, frame.image)
