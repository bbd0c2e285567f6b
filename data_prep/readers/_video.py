"""Frames of a video file, streamed in presentation order, exact whatever is skipped.

The packets are listed first, without decoding: their timestamps, sorted, are the index of the
frames. Then only what is needed is decoded. Packets are left undecoded only up to a point where the
codec guarantees a fresh start (every frame of an intra-only codec, a key frame of VP8 and VP9, an
IDR picture of H.264 and H.265); a "key frame" as such is not enough, for after an open GOP's the
frames may refer to what lies before. Where the first frames come out of the decoder in another
order than their timestamps (H.264 in AVI has those of storage only), nothing is skipped, and frames
are numbered as they come.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from data_prep.readers import _containers, _fresh_starts, _images, _video_frames
from data_prep.readers._images import Unusable

SUFFIXES = tuple(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .mpe .m2v .wmv .asf .flv .ts .mts .m2ts .vob .3gp "
    ".ogv .ogm .dv .mxf .divx .h264 .264 .h265 .hevc .y4m".split()
)
REORDERED = 16  # frames that H.264 and H.265 may hold back to show them in order, at most
NO_FRAME = 12  # bytes of a packet that may say "as before" and give no frame
NO_VIDEO = ("attached_pic", "timed_thumbnails", "still_image", "dependent")  # dispositions


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """What the packets say of a video.

    Attributes
    ----------
    count : int
        Frames that can be read up to a break, if there is one: those that decode, not packets.
    expected : int or None
        Frames of the whole video; None where it is cut and its container announces none.
    is_cut : bool
        The file ends before its content does, or a packet is damaged.
    pts : numpy.ndarray or None
        int64 (count,) timestamps in presentation order; None where they are absent or not unique.
    runs : numpy.ndarray or None
        int64 (count,): for each frame in presentation order, the number of the fresh start after
        which it is decoded. None where timestamps do not tell the order of presentation: then
        frames are counted as the decoder gives them, and nothing is skipped.
    time_base : Fraction
        Seconds of one step of ``pts``.
    rate : Fraction or None
        Frames a second, as stated.
    turn : tuple of int
        See :func:`data_prep.readers._video_frames.turn`.
    notes : tuple of str
        What is to be said of its frames: :func:`data_prep.readers._video_frames.notes`.
    """

    count: int
    expected: int | None
    is_cut: bool
    pts: np.ndarray | None
    runs: np.ndarray | None
    order: np.ndarray | None
    time_base: Fraction
    rate: Fraction | None
    turn: tuple[int, int, int, int] = _video_frames.NO_TURN
    notes: tuple[str, ...] = ()

    def time_s(self, number: int) -> float | None:
        """Seconds from the first frame to frame ``number``; None where nothing says it."""
        if self.pts is not None and number < len(self.pts):
            return float((int(self.pts[number]) - int(self.pts[0])) * self.time_base)
        return float(number / self.rate) if self.rate else None

    def sound_before(self, number: int) -> int:
        """Frames, from the first, that are decoded before frame ``number``, which is damaged.

        A frame shown before it may be decoded after it, and predicted from it.
        """
        if self.order is None:
            return max(0, number - REORDERED)
        return int(np.flatnonzero(self.order >= self.order[number])[0])


def scan(path: pathlib.Path) -> Index:
    """List the packets of a video, and look at its first frames.

    Raises
    ------
    Unusable
        If the file is missing, empty or no video, holds several, was cut before its table of
        contents, its frames are to be turned by odd angles, or nothing here decodes its codec.
    """
    with _Opened(path) as (container, stream):
        context = stream.codec_context
        starts_fresh = _fresh_starts.test(context)
        pts: list[int | None] = []
        runs: list[int] = []
        run, is_cut, read, is_doubtful = 0, False, 0, False
        for packet in _packets(container, stream):
            if packet is None or packet.is_corrupt:
                is_cut = True
                break
            read += 1
            run += bool(pts) and starts_fresh(packet)
            if packet.has_sidedata("new_extradata"):
                starts_fresh = _fresh_starts.never
                runs, run = [0] * len(runs), 0
            if packet.is_discard:  # before the start that an edit list sets
                continue
            pts.append(packet.pts)
            runs.append(run)
            is_doubtful |= packet.size <= NO_FRAME
        stated = _containers.structure(path, container.format.name)
        more = max(0, stream.frames - read)
        is_cut |= bool(more) if stated.is_cut is None else stated.is_cut
        is_cut |= bool(stated.counts) and read not in stated.counts
        base, rate = stream.time_base or Fraction(1, 1000), stream.average_rate
        if not pts:
            raise Unusable("no frame of the video can be read")
        more *= is_cut
        enough = 1 if context.name in _fresh_starts.INTRA_ONLY else 2 * REORDERED
        enough = len(pts) if is_doubtful else min(enough, len(pts))
        given, is_broken, *looks = _look(path, stream, enough)
        shown, times = _order_of_display(pts), None
        if shown is not None:
            stamps = np.array(pts, np.int64)[shown]
            if given == stamps[: len(given)].tolist() and (is_broken or len(given) == enough):
                expected = len(pts) + more if more or not is_cut else None
                numbers = np.array(runs, np.int64)[shown]
                index = len(pts), expected, is_cut, stamps, numbers, shown
                return Index(*index, base, rate, *looks)
        given, is_broken, *_ = _look(path, stream, None)
    if None not in given and given == sorted(set(given)):
        times = np.array(given, np.int64)
    elif shown is not None and len(given) == len(pts):  # AVI: times of storage
        times = stamps
    count = len(pts) if is_broken else len(given)
    expected = count + more if more or not is_cut else None
    return Index(count, expected, is_cut, times, None, None, base, rate, *looks)


def _order_of_display(pts: list[int | None]) -> np.ndarray | None:
    """Places of the packets in the order of their timestamps; None where these do not tell it."""
    if None in pts or len(set(pts)) < len(pts):
        return None
    shown = np.argsort(np.array(pts, np.int64))
    # A jump back is a second recording in one file, no order of display.
    return shown if np.abs(shown - np.arange(len(pts))).max() <= 2 * REORDERED else None


def _look(path: pathlib.Path, stream, count: int | None) -> tuple:
    """Of the first frames that a plain decoder gives (None: of all): their timestamps, whether
    damage ended them, and turn and notes."""
    given, is_broken, looks = [], False, ()
    for frame in itertools.islice(_in_order(path), count):
        is_broken = frame is None
        if not is_broken:
            looks = looks or (_video_frames.turn(frame), _video_frames.notes(frame, stream))
            given.append(frame.pts)
    return given, is_broken, *looks


class Damaged(Exception):
    """Decoding met damage; ``number``: of the first frame that cannot be used."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def decode(
    path: pathlib.Path, index: Index, wanted: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames one by one; one decoded frame at a time is held.

    Parameters
    ----------
    path : pathlib.Path
    index : Index
        Of this file.
    wanted : numpy.ndarray, optional
        bool (index.count,): frames to give; all if absent. Ignored where ``index.runs`` is None.

    Yields
    ------
    number : int
        From 0 in presentation order.
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.

    Raises
    ------
    Damaged
        At the first damaged frame after a whole one, or where the data end too early. Damaged
        frames before the first whole one, where a recording began amid a group, are passed over.
    """
    if index.runs is None:
        numbered = enumerate(_in_order(path))
        wanted = None
    else:
        if wanted is None:
            wanted = np.ones(index.count, bool)
        if not wanted.any():
            return
        numbered = _by_time(path, index, wanted)
    number, began = -1, False
    for number, frame in numbered:
        if frame is None or (frame.is_corrupt and began):
            raise Damaged(max(number, 0))
        if frame.is_corrupt:
            continue
        began = True
        if wanted is None or wanted[number]:
            yield number, _video_frames.rgb(frame, index.turn)
    if not began:
        raise Damaged(0)


def whole_frames(path: pathlib.Path, index: Index) -> int:
    """Number of frames, from the first, that no break or damage touches; decodes them all."""
    if index.runs is None:
        numbered = enumerate(_in_order(path))
    else:
        numbered = _by_time(path, index, np.ones(index.count, bool))
    number, began = -1, False
    for number, frame in numbered:
        if frame is None:
            return number
        if frame.is_corrupt and began:
            return index.sound_before(number)
        began |= not frame.is_corrupt
    # What is left of the last packet may be decoded without a complaint.
    return index.sound_before(number) if index.is_cut and number >= 0 else number + 1


def _in_order(path: pathlib.Path) -> Iterator:
    """Frames as the decoder gives them; None at damage that it does not survive."""
    import av

    with _Opened(path) as (container, stream):
        for packet in _packets(container, stream, flush=True):
            try:
                frames = None if packet is None or packet.is_corrupt else packet.decode()
            except av.error.FFmpegError:
                frames = None
            yield from [None] if frames is None else frames
            if frames is None:
                return


def _by_time(path: pathlib.Path, index: Index, wanted: np.ndarray) -> Iterator[tuple]:
    """(number, frame) of at least the wanted frames; (number, None) at damage."""
    import av

    place = {int(stamp): number for number, stamp in enumerate(index.pts)}
    runs = np.zeros(int(index.runs.max()) + 1, bool)
    runs[index.runs[wanted]] = True
    last = int(np.flatnonzero(wanted)[-1])
    number, is_fresh, has_skipped = -1, True, not runs[0]
    with _Opened(path) as (container, stream):
        context = stream.codec_context
        for packet in _packets(container, stream, flush=True):
            if packet is None or packet.is_corrupt:
                yield number + 1, None
                return
            is_last = packet.dts is None and packet.size == 0
            known = place.get(packet.pts) if packet.pts is not None else None
            needed = is_last or known is None or runs[index.runs[known]]
            try:
                if needed:
                    frames = context.decode(packet)
                    is_fresh = False
                elif not is_fresh:  # the end of a run: what the decoder holds back, then afresh
                    frames = context.decode(None)
                    context.flush_buffers()
                    is_fresh = True
                else:
                    continue
            except av.error.FFmpegError:
                yield number + 1, None
                return
            for frame in frames:
                found = place.get(frame.pts, -1)
                if found <= number or (found > number + 1 and not has_skipped):
                    raise Unusable(
                        f"its timestamps after frame {max(number, 0)} are not those of its frames: "
                        "convert it"
                    )
                number, has_skipped = found, False
                yield number, frame
                if number >= last:
                    return
            has_skipped |= is_fresh
    if number < last:
        yield number + 1, None


class _Opened:
    """A container and its first video stream, closed at the end."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __enter__(self) -> tuple:
        import av

        try:
            if not self._path.stat().st_size:
                raise Unusable("the video file is empty")
            self._container = av.open(str(self._path), **_lenient())
        except FileNotFoundError as error:
            raise Unusable("the video file is missing") from error
        except (av.error.FFmpegError, OSError) as error:
            reason = "the video file is unreadable: no video, or cut off before its contents' table"
            raise Unusable(reason) from error
        try:
            stream = _video_stream(self._container)
            context = stream.codec_context
            if context is None or not _decodes(context):
                raise Unusable("its codec is unknown: convert the video, for instance to H.264")
            if context.width * context.height > _images.MAX_PIXELS:
                raise Unusable(f"its frames have {context.width} x {context.height} pixels")
            # One thread a video: videos are shared out to processes, and every further decoding
            # thread would hold frames of its own.
            context.thread_count = 1
        except BaseException:
            self._container.close()
            raise
        return self._container, stream

    def __exit__(self, *_) -> None:
        self._container.close()


def _video_stream(container):
    """The one video of a container: pictures attached to it and previews are none."""
    videos = [
        stream
        for stream in container.streams.video
        if not any(name in NO_VIDEO for name in _dispositions(stream))
    ]
    if len(videos) > 1:
        videos = [stream for stream in videos if "default" in _dispositions(stream)] or videos
    if not videos:
        raise Unusable("the file holds no video stream")
    if len(videos) > 1:
        raise Unusable(
            f"the file holds {len(videos)} videos and does not say which one counts: keep one, for "
            "instance with ffmpeg -i FILE -map 0:v:0 -c copy NEW"
        )
    return videos[0]


def _dispositions(stream) -> list[str]:
    return [flag.name for flag in type(stream.disposition) if flag & stream.disposition]


def _lenient() -> dict[str, str]:
    """Options with which titles that are no UTF-8 do not end the reading; PyAV 19 needs none."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _decodes(context) -> bool:
    import av

    try:
        return bool(av.codec.Codec(context.name, "r"))
    except (ValueError, av.error.FFmpegError):
        return False


def _packets(container, stream, flush: bool = False) -> Iterator:
    """Packets in stored order, then None if reading failed; ``flush``: the empty last one too."""
    import av

    try:
        for packet in container.demux(stream):
            # An empty one with a time stands for a frame that was dropped: no decoder takes it.
            if packet.size or (flush and packet.dts is None):
                yield packet
    except av.error.FFmpegError:
        yield None
