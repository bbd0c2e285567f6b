"""Sweep over videos: what is read is what was written, or is refused with a reason.

Frames are made of blocks of one colour, so that subsampled chroma is exact inside a block, and the
RGB values that a video must give follow from its planes by the equations of ITU-R BT.601, BT.709
and BT.2020. Codecs are lossless where they can be; of the others only the order of the frames is
compared, by the mean level, which tells the number.
"""

import itertools
import os
import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from data_prep.readers import _colonoscopy
from data_prep.readers._images import Unusable
from tests.sweep.tally import Tally

HEIGHT, WIDTH, BLOCK, FRAMES = 48, 64, 8, 12
LOSSLESS = {"libx264": {"qp": "0"}, "libx265": {"x265-params": "lossless=1:log-level=none"}}
LOSSLESS["libvpx-vp9"] = {"lossless": "1", "cpu-used": "8"}
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
ONE = 1 << 16
#: name -> display matrix a, b, c, d and what a player does with an image.
TURNS = {
    "none": ((ONE, 0, 0, ONE), lambda image: image),
    "90": ((0, ONE, -ONE, 0), lambda image: np.rot90(image, 3)),
    "180": ((-ONE, 0, 0, -ONE), lambda image: np.rot90(image, 2)),
    "270": ((0, -ONE, ONE, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda image: image[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda image: image[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda image: image.swapaxes(0, 1)),
    "transversed": ((0, -ONE, -ONE, 0), lambda image: np.rot90(image.swapaxes(0, 1), 2)),
    "45": ((46341, 46341, -46341, 46341), None),
    "2": ((65496, 2287, -2287, 65496), None),
    "doubled": ((2 * ONE, 0, 0, 2 * ONE), None),
}


def blocks(number, channels=3):
    """uint8 (HEIGHT, WIDTH, channels) in 60..200: the levels of a frame, other ones in each."""
    levels = np.random.default_rng(number).integers(60, 201, (HEIGHT // BLOCK, WIDTH // BLOCK, 3))
    return levels.astype(np.uint8).repeat(BLOCK, 0).repeat(BLOCK, 1)[..., :channels]


def grey(number):
    return np.full((HEIGHT, WIDTH, 3), 30 + 18 * number, np.uint8)


def planes(levels, layout):
    """A frame in ``layout`` whose planes hold ``levels``, scaled to its depth."""
    frame = av.VideoFrame(WIDTH, HEIGHT, layout)
    bits = frame.format.components[0].bits
    kind = np.uint8 if bits == 8 else np.uint16
    for plane, channel in zip(frame.planes, np.moveaxis(levels, 2, 0), strict=False):
        step = HEIGHT // plane.height, WIDTH // plane.width
        part = channel[:: step[0], :: step[1]].astype(kind) << kind(bits - 8)
        rows = np.zeros((plane.height, plane.line_size // part.itemsize), kind)
        rows[:, : plane.width] = part
        plane.update(rows.tobytes())
    return frame


def to_rgb(levels, matrix, full):
    """RGB of Y, U, V levels by the standards' equations."""
    y, u, v = np.moveaxis(levels.astype(np.float64), 2, 0)
    y, u, v = (
        (y / 255, (u - 128) / 255, (v - 128) / 255)
        if full
        else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    )
    red, blue = LUMA[matrix]
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return (255 * np.stack([r, g, b], -1)).clip(0, 255)


def write(path, codec, frames, stamps=None, rate=25, **more):
    """Write ``av`` frames; ``more``: attributes of the stream."""
    container = more.pop("container", {})
    options = LOSSLESS.get(codec, {}) | more.pop("options", {})
    with av.open(str(path), "w", options=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, frames[0].format.name
        stream.codec_context.thread_count = 1
        for name, value in more.items():
            setattr(stream.codec_context, name, value)
        for frame, stamp in zip(frames, stamps or itertools.count(), strict=False):
            frame.pts, frame.time_base = stamp, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def colours(layout, make=grey):
    return [
        av.VideoFrame.from_ndarray(make(n), format="rgb24").reformat(format=layout)
        for n in range(FRAMES)
    ]


def read(path, notes=None):
    (source,) = _colonoscopy.find(path)
    return [frame.image for frame in _colonoscopy.frames(source, notes=notes)]


def inner(image):
    """The pixels of an image that lie inside a block, away from where chroma is blended."""
    rows, columns = (np.arange(length) % BLOCK for length in image.shape[:2])
    inside = [(place >= 2) & (place < BLOCK - 2) for place in (rows, columns)]
    return image[np.ix_(*inside)].astype(np.float64)


def judge(tally, variant, path, expected, tolerance, *, notes=None):
    """Count one variant; ``expected`` None: only a refusal is right."""
    try:
        found = read(path, notes)
    except Unusable as error:
        tally.refuse(variant, re.sub(r"-?\d+", "N", str(error)))
        return
    if expected is None:
        tally.agree(variant, False, "read, and should not be")
    elif len(found) != len(expected) or found[0].shape != expected[0].shape:
        said = f"{len(found)} frames of {found[0].shape}"
        tally.agree(variant, False, f"{said} for {len(expected)} of {expected[0].shape}")
    else:
        pairs = zip(found, expected, strict=True)
        off = max(np.abs(inner(one) - inner(other)).max() for one, other in pairs)
        tally.agree(variant, off <= tolerance, f"up to {off:.0f} levels")


def sweep_colours(folder, quick=False):
    """Every matrix and range in every kind of storage, and what has no matrix."""
    tally = Tally("videos: colours")
    kinds = [
        ("ffv1", "mkv", "yuv444p", 2),
        ("ffv1", "mkv", "yuv420p", 3),
        ("ffv1", "mkv", "yuv422p10le", 4),
        ("ffv1", "mkv", "yuva444p", 2),
        ("libx264", "mp4", "yuv420p", 3),
        ("libx264", "mov", "yuv444p10le", 2),
        ("libx264", "mkv", "yuv420p10le", 4),
        ("libvpx-vp9", "webm", "yuv444p", 2),
        ("ffvhuff", "avi", "yuv422p", 3),
    ]
    for (codec, suffix, layout, tolerance), matrix, levels in itertools.product(
        kinds, LUMA, (0, 1, 2)
    ):
        if quick and (matrix, levels) not in ((1, 2), (5, 1), (9, 1), (2, 0)):
            continue
        variant = f"{codec} {suffix} {layout} matrix {matrix} range {levels}"
        path = folder / f"{len(variant)}-{abs(hash(variant))}.{suffix}"
        given = {} if matrix == 2 else {"colorspace": matrix}
        given |= {"color_range": levels} if levels else {}
        frames = [planes(blocks(n), layout) for n in range(2)]
        for frame, (name, value) in itertools.product(frames, given.items()):
            setattr(frame, name, value)
        write(path, codec, frames, **given)
        if suffix == "avi":  # it has no place for either
            matrix, levels = 2, 0
        expected = [to_rgb(blocks(n), matrix, levels == 2) for n in range(2)]
        judge(tally, variant, path, expected, tolerance)
    for codec, suffix, layout in (
        ("ffv1", "mkv", "gray"),
        ("ffv1", "mkv", "gray10le"),
        ("ffv1", "mkv", "ya8"),
        ("rawvideo", "avi", "gray"),
        ("png", "mov", "gray"),
        ("ffv1", "mkv", "bgra"),
        ("ffv1", "mkv", "gbrp10le"),
        ("ffv1", "mkv", "rgb48le"),
        ("png", "mov", "rgb24"),
        ("png", "mov", "rgba"),
        ("png", "mov", "rgb48be"),
        ("qtrle", "mov", "argb"),
        ("qtrle", "mov", "rgb24"),
        ("huffyuv", "avi", "rgb24"),
        ("rawvideo", "avi", "bgr24"),
        ("rawvideo", "mov", "argb"),
        ("libx264rgb", "mp4", "rgb24"),
        ("zmbv", "avi", "bgr0"),
        ("utvideo", "avi", "gbrp"),
        ("ffv1", "avi", "gbrp16le"),
    ):
        is_grey = layout.startswith(("gray", "ya"))
        levels = [blocks(n) for n in range(2)]
        levels = [level[..., :1].repeat(3, 2) if is_grey else level for level in levels]
        frames = [av.VideoFrame.from_ndarray(level, format="rgb24") for level in levels]
        frames = [
            planes(level[..., :1], layout) if layout == "gray" else frame.reformat(format=layout)
            for frame, level in zip(frames, levels, strict=True)
        ]
        options = {"options": {"qp": "0"}} if codec == "libx264rgb" else {}
        path = write(folder / f"{codec}-{layout}.{suffix}", codec, frames, **options)
        judge(tally, f"{codec} {suffix} {layout}", path, levels, 1)
    for codec, suffix in (("ffv1", "mkv"), ("libx264", "mp4")):
        frames = [planes(blocks(n), "yuv444p") for n in range(2)]
        for frame in frames:
            frame.colorspace = 8
        path = write(folder / f"ycgco.{suffix}", codec, frames, colorspace=8)
        judge(tally, f"{codec} {suffix} matrix YCgCo", path, None, 0)
    return tally


def turned(path, target, matrix):
    """Copy an MP4 or MOV with another display matrix in its track header."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4
    place += 40 if content[place] == 0 else 52
    a, b, c, d = matrix
    struct.pack_into(">9i", content, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


def copied(path, target, filters=""):
    """Copy packets into another container, perhaps through a bitstream filter."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        given = source.streams.video[0]
        stream = output.add_stream_from_template(given)
        through = av.bitstream.BitStreamFilterContext(filters or "null", given, stream)
        for packet in source.demux(given):
            for each in through.filter(packet if packet.dts is not None else None):
                each.stream = stream
                output.mux(each)
    return target


def sweep_turns(folder, quick=False):
    """Every display matrix in every container that has one."""
    del quick
    tally = Tally("videos: turned")
    for codec, suffix, layout in (
        ("libx264", "mp4", "yuv420p"),
        ("libx264", "mov", "yuv420p"),
        ("qtrle", "mov", "rgb24"),
        ("png", "mov", "rgb24"),
        ("libx264", "m4v", "yuv420p"),
    ):
        levels = [blocks(n) for n in range(2)]
        if layout == "yuv420p":
            frames = [planes(level, layout) for level in levels]
            levels = [to_rgb(level, 2, False) for level in levels]
        else:
            frames = [av.VideoFrame.from_ndarray(level, format="rgb24") for level in levels]
        plain = write(folder / f"{codec}-plain.{suffix}", codec, frames)
        for name, (matrix, shown) in TURNS.items():
            path = turned(plain, folder / f"{codec}-{name}.{suffix}", matrix)
            expected = None if shown is None else [shown(level) for level in levels]
            judge(tally, f"{codec} {suffix} {name}", path, expected, 3)
            if suffix == "mp4" and name in ("none", "90", "180", "270"):
                path = copied(path, folder / f"{name}.mkv")
                judge(tally, f"{codec} mkv {name}", path, expected, 3)
        if suffix == "mp4":  # a turn in the stream, of its first picture alone
            filters = "h264_metadata=display_orientation=insert:rotate=90"
            path = copied(plain, folder / "sei.mkv", filters)
            judge(tally, "libx264 mkv, one frame turned", path, None, 3)
    return tally


def sweep_times(folder, quick=False):
    """Dropped frames, late starts, changing rates and reordered frames, in every container."""
    tally = Tally("videos: frames and times")
    os.environ.setdefault("SVT_LOG", "0")
    dropped = [0, 1, 2, 5, 6, 7, 8, 12, 13, 14, 20, 21]
    times = {"steady": list(range(12)), "late and dropped": [1000 + n for n in dropped]}
    if not quick:
        times |= {"dropped": dropped, "late": [1000 + n for n in range(12)]}
    kinds = [
        (codec, suffix, more)
        for suffix, codecs in {
            "avi": "mjpeg mpeg4 libx264 ffvhuff msmpeg4v2",
            "mkv": "libx264 mpeg4 mjpeg libx265 ffv1 mpeg2video",
            "mp4": "libx264 libx265 mpeg4",
            "mov": "libx264 prores_ks mjpeg",
            "m4v": "mpeg4",
            "3gp": "mpeg4",
            "webm": "libvpx libvpx-vp9 libsvtav1",
            "ts": "libx264 mpeg2video",
            "mpg": "mpeg2video mpeg1video",
            "flv": "libx264 flv1",
            "wmv": "wmv2 msmpeg4v3 libx264",
            "h264": "libx264",
            "mxf": "mpeg2video",
        }.items()
        for codec in codecs.split()
        for more in ({"bf": "0"}, {"bf": "3", "g": "6"})
        if more["bf"] == "0" or codec in ("libx264", "libx265", "mpeg4", "mpeg2video")
    ]
    for (codec, suffix, options), (name, stamps) in itertools.product(kinds, times.items()):
        if suffix in ("mxf", "h264") and name != "steady":  # they hold no times
            continue
        layout = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        more = {"libsvtav1": {"svtav1-params": "lp=1", "preset": "11"}}
        more["libx265"] = {"x265-params": "lossless=1:log-level=none:bframes=" + options["bf"]}
        b_frames = "" if options["bf"] == "0" else " B-frames"
        path = folder / f"{codec}-{options['bf']}-{name}.{suffix}"
        options = LOSSLESS.get(codec, {}) | options | more.get(codec, {})
        write(path, codec, colours(layout), stamps, options=options)
        expected = [np.full((HEIGHT, WIDTH, 3), grey(n)) for n in range(12)]
        judge(tally, f"{codec} {suffix}{b_frames} {name}", path, expected, 8)
    return tally


def sweep_streams(folder, quick=False):
    """Which of several streams is the video."""
    del quick
    tally = Tally("videos: streams")
    default = av.stream.Disposition.default.value
    picture = av.stream.Disposition.attached_pic.value
    for suffix in ("mp4", "mov", "mkv", "ts", "avi"):
        for name, kinds, right in (
            ("one and sound", [("libx264", 0, 3), ("sound", 0, 0)], 3),
            ("sound and one", [("sound", 0, 0), ("libx264", 0, 3)], 3),
            ("picture first", [("png", picture, 1), ("libx264", default, 5)], 5),
            ("picture last", [("libx264", default, 5), ("png", picture, 1)], 5),
            ("default first", [("libx264", default, 2), ("libx264", 0, 7)], 2),
            ("default second", [("libx264", 0, 2), ("libx264", default, 7)], 7),
            ("no default", [("libx264", 0, 2), ("libx264", 0, 7)], None),
            ("two defaults", [("libx264", default, 2), ("libx264", default, 7)], None),
        ):
            if "picture" in name and suffix not in ("mp4", "avi"):  # no other muxer takes one
                continue
            path = folder / f"{name}.{suffix}"
            several(path, kinds)
            if suffix == "mov" and name == "no default":  # FFmpeg marks the first one
                right = 2
            if suffix in ("mp4", "mkv") and name == "no default":
                with av.open(str(path)) as file:
                    marked = [s.index for s in file.streams.video if s.disposition.value & default]
                right = (2, 7)[marked[0]] if len(marked) == 1 else None
            if suffix in ("ts", "avi") and len(kinds) == 2 and kinds[0][0] == kinds[1][0]:
                right = None  # it has no place for a default
            expected = None if right is None else [grey(right)] * 6
            if suffix == "avi" and "picture" in name:
                expected = None
            judge(tally, f"{suffix} {name}", path, expected, 3)
    return tally


def several(path, kinds):
    """Write a file of several streams: codec, disposition and the number of its frame."""
    with av.open(str(path), "w") as output:
        streams = []
        for codec, disposition, number in kinds:
            if codec == "sound":
                streams.append((output.add_stream("mp2", rate=44100), None))
                continue
            stream = output.add_stream(codec, rate=25, options=LOSSLESS.get(codec, {}))
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
            stream.disposition = disposition
            streams.append((stream, number))
        for n, (stream, number) in itertools.product(range(6), streams):
            if number is None:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
                frame.sample_rate = 44100
            elif stream.codec_context.name == "png" and n:
                continue
            else:
                frame = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
                frame.time_base = Fraction(1, 25)
            frame.pts = n * (1152 if number is None else 1)
            output.mux(stream.encode(frame))
        for stream, _ in streams:
            output.mux(stream.encode())


def sweep_cut(folder, quick=False):
    """Files without their end: to be refused, however little is missing."""
    del quick
    tally = Tally("videos: cut off")
    for codec, suffix, options in (
        ("libx264", "mp4", {"movflags": "faststart"}),
        ("libx264", "mp4", {}),
        ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("libx264", "mov", {"movflags": "faststart"}),
        ("libx264", "mkv", {}),
        ("libx264", "mkv", {"live": "1"}),
        ("mjpeg", "avi", {}),
        ("mpeg4", "avi", {}),
        ("libvpx-vp9", "webm", {}),
        ("libx264", "ts", {}),
        ("libx264", "flv", {}),
        ("wmv2", "wmv", {}),
        ("mpeg2video", "mxf", {}),
        ("libvpx", "ogv", {}),
    ):
        layout = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        name = f"{codec} {suffix} {' '.join(options)}"
        path = folder / f"{codec}-{len(name)}.{suffix}"
        frames = colours(layout, blocks)
        write(path, codec, frames, options={"g": "4"}, container=options)
        content = path.read_bytes()
        assert len(read(path)) == FRAMES
        for share in (0.4, 0.6, 0.8, 0.9):
            path.write_bytes(content[: int(len(content) * share)])
            judge(tally, f"{name} {share}", path, None, 0)
    return tally


def sweep_edits(folder, quick=False):
    """MP4 whose edit list shows a part of what is stored."""
    del quick
    tally = Tally("videos: edit lists")
    plain = write(folder / "plain.mp4", "libx264", colours("yuv420p"), options={"g": "4"})
    content = plain.read_bytes()
    place = content.find(b"elst") + 12
    length, start = struct.unpack_from(">Ii", content, place)
    for first, last in itertools.product((0, 1, 4, 7), (5, 8, 9, 12)):
        if last <= first:
            continue
        edited = bytearray(content)
        struct.pack_into(">Ii", edited, place, length * (last - first) // 12, start + 512 * first)
        path = folder / f"{first}-{last}.mp4"
        path.write_bytes(edited)
        judge(tally, f"frames {first} to {last}", path, [grey(n) for n in range(first, last)], 3)
    return tally


SWEEPS = (sweep_colours, sweep_turns, sweep_times, sweep_streams, sweep_cut, sweep_edits)


def sweep(folder):
    for part in SWEEPS:
        (folder / part.__name__).mkdir()
    return [part(folder / part.__name__) for part in SWEEPS]


@pytest.mark.parametrize(
    ("part", "agreed", "refused"),
    list(zip(SWEEPS, (56, 44, 100, 20, 0, 15), (2, 16, 0, 14, 56, 0), strict=True)),
)
def test_no_video_is_read_in_another_way_without_a_word(tmp_path, part, agreed, refused):
    tally = part(tmp_path, quick=True)
    assert tally.different == []
    assert (tally.agreed, sum(map(len, tally.refused.values()))) == (agreed, refused)
