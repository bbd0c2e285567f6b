"""Small videos, frames and masks for the tests of the colonoscopy readers."""

from fractions import Fraction

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def pattern(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (height, width, 3): a frame whose grey level tells its number."""
    image = np.full((height, width, 3), 20 + 4 * (number % 50), np.uint8)
    x = (5 * number) % (width - 8)
    image[4:12, x : x + 8] = (250, 30, 30)
    return image


def disc(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (height, width): a white disc on black, left of the middle."""
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - height / 2, columns - width / 3) < height / 4
    return inside.astype(np.uint8) * np.uint8(255)


def write_video(path, frames=20, codec="libx264", rate=10, times=None, **options):
    """Write ``pattern`` frames; ``times``: presentation times in ms instead of a fixed rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.options = {key: str(value) for key, value in options.items()}
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pattern(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_image(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pattern(0) if pixels is None else pixels).save(path)
    return path


def decoded(path):
    """All frames, by the plain loop of PyAV."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
