import itertools
import os
import shutil
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _video
from data_prep.readers._colonoscopy import Options, Sampling
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import (
    HEIGHT,
    WIDTH,
    decoded,
    disc,
    pattern,
    write_image,
    write_video,
)
from tests.sweep.test_video import colours, turned, write

FAST_START = {"movflags": "faststart"}
KINDS = {
    "closed.mp4": {"g": 6, "bf": 3},
    "open.mp4": {"g": 6, "bf": 3, "x264-params": "open-gop=1:keyint=6:scenecut=0"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=6"},
    "long.mkv": {"g": 250},
    "stream.ts": {"g": 6},
    "h265.mp4": {
        "codec": "libx265",
        "x265-params": "keyint=6:min-keyint=6:open-gop=0:log-level=none",
    },
    "open265.mp4": {"codec": "libx265", "x265-params": "keyint=6:open-gop=1:log-level=none"},
    "intra.avi": {"codec": "mjpeg"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": 6, "deadline": "realtime", "cpu-used": 8},
    "mpeg4.avi": {"codec": "mpeg4", "g": 6},
    "mpeg2.mpg": {"codec": "mpeg2video", "g": 6, "bf": 2, "rate": 25},
    "wmv.wmv": {"codec": "wmv2", "rate": 25},
}


def only(root, **options):
    (source,) = _colonoscopy.find(root, Options(**options))
    return source


def read(source, notes=None, **sampling):
    return list(_colonoscopy.frames(source, Sampling(**sampling), notes))


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_any_codec_is_that_of_a_plain_decoder(tmp_path, name):
    path = write_video(tmp_path / name, **KINDS[name])
    frames, plain = read(only(tmp_path)), decoded(path)
    assert [frame.index for frame in frames] == list(range(20))
    for frame, other in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(frame.image, other)
        assert (frame.mask, frame.label, frame.boxes) == (None, None, ())
    rate = KINDS[name].get("rate", 10)
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(20) / rate, atol=2e-3)
    # The content tells its own number, so the order is that of presentation.
    levels = [np.median(frame.image) for frame in frames]
    np.testing.assert_allclose(levels, [np.median(pattern(n)) for n in range(20)], atol=4)


@pytest.mark.parametrize("name", KINDS)
def test_skipping_gives_the_same_pixels(tmp_path, name):
    path = write_video(tmp_path / name, **KINDS[name])
    plain, index = decoded(path), _video.scan(path)
    for places in ([0], [7], [19], [13, 14], [1, 18], [5, 6, 11, 12]):
        wanted = np.zeros(20, bool)
        wanted[places] = True
        found = list(_video.decode(path, index, wanted))
        assert [number for number, _ in found] == places
        for number, image in found:
            np.testing.assert_array_equal(image, plain[number])


@pytest.mark.parametrize(
    ("name", "runs"),
    [("closed.mp4", 4), ("open.mp4", 1), ("refresh.mp4", 1), ("h265.mp4", 4), ("intra.avi", 20)],
)
def test_only_true_fresh_starts_are_used(tmp_path, name, runs):
    index = _video.scan(write_video(tmp_path / name, **KINDS[name]))
    assert len(set(index.runs)) == runs


def test_what_is_skipped_is_not_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", frames=60, g=5, bf=0)
    seen = []
    original = _video._by_time

    def spied(*args):
        for number, frame in original(*args):
            seen.append(number)
            yield number, frame

    monkeypatch.setattr(_video, "_by_time", spied)
    assert [frame.index for frame in read(only(tmp_path), every_s=2)] == [0, 20, 40]
    assert len(seen) <= 15


def test_sampling_by_time_and_by_stride(tmp_path):
    write_video(tmp_path / "a.mp4", frames=30)
    source = only(tmp_path)
    assert [f.index for f in read(source, every_s=0.5)] == list(range(0, 30, 5))
    quarters = [int(np.ceil(2.5 * step)) for step in range(12)]
    assert [f.index for f in read(source, every_s=0.25)] == quarters
    assert [f.index for f in read(source, stride=7)] == [0, 7, 14, 21, 28]
    assert [f.index for f in read(source, every_s=100)] == [0]


def test_times_are_the_containers_where_the_rate_changes(tmp_path):
    times = [0, 40, 80, 500, 540, 2000, 2040, 2080, 5100, 9000]
    write_video(tmp_path / "a.mkv", frames=10, times=times, rate=25)
    frames = read(only(tmp_path))
    np.testing.assert_allclose([f.time_s for f in frames], np.array(times) / 1000, atol=2e-3)
    taken = read(only(tmp_path), every_s=1)
    assert [frame.index for frame in taken] == [0, 5, 8, 9]


@pytest.mark.parametrize(
    "given",
    [{"every_s": 0}, {"every_s": float("nan")}, {"stride": 0}, {"every_s": 1, "stride": 2}]
    + [{"fps": 0}],
)
def test_sampling_that_makes_no_sense(given):
    with pytest.raises(UserError):
        Sampling(**given)


def test_masks_by_index_and_frames_without_one(tmp_path):
    write_video(tmp_path / "a.mp4", frames=6)
    write_image(tmp_path / "a_masks/000002.png", disc())
    write_image(tmp_path / "a_masks/000005.png", disc())
    source = only(tmp_path)
    for frame in read(source):
        expected = disc() > 0 if frame.index in (2, 5) else np.zeros((HEIGHT, WIDTH), bool)
        np.testing.assert_array_equal(frame.mask, expected)
    assert [path.name for path in source.files] == ["a.mp4", "000002.png", "000005.png"]
    assert [frame.index for frame in read(source, labelled_only=True, stride=2)] == [0, 2, 4]


def test_masks_of_other_sizes(tmp_path):
    write_video(tmp_path / "a.mp4", frames=4)
    write_image(tmp_path / "a_masks/000000.png", disc(HEIGHT * 2, WIDTH * 2))
    write_image(tmp_path / "a_masks/000001.png", disc(HEIGHT, WIDTH + 9))
    notes = []
    frames = read(only(tmp_path), notes)
    assert [frame.index for frame in frames] == [0, 2, 3]
    assert frames[0].mask.shape == (HEIGHT, WIDTH)
    assert 0.9 < frames[0].mask.mean() / (disc() > 0).mean() < 1.1
    assert any("nearest" in note for note in notes)
    assert any("left out" in note and "73 x 48" in note for note in notes)


@pytest.mark.parametrize(
    ("mask", "reason"), [("000020.png", "masks go up to frame 20"), ("3.png", "two masks")]
)
def test_masks_that_do_not_fit_the_video(tmp_path, mask, reason):
    write_video(tmp_path / "a.mp4")
    write_image(tmp_path / "a_masks/000003.png", disc())
    write_image(tmp_path / "a_masks" / mask, disc())
    with pytest.raises(Unusable, match=reason):
        read(only(tmp_path))


def test_masks_of_no_video_and_empty_masks(tmp_path):
    write_video(tmp_path / "a.mp4", frames=2)
    (tmp_path / "a_masks").mkdir()
    write_image(tmp_path / "b_masks/000003.png", disc())
    a, b = _colonoscopy.find(tmp_path)
    assert not read(a)[0].mask.any() and "no frame shows a lesion" in a.notes[0]
    with pytest.raises(Unusable, match="without a video"):
        read(b)


def write_labels(folder, rows, name="frame_quality_labels.csv", heading="video,frame_index,label"):
    (folder / name).write_text("\n".join([heading, *rows]))


def test_labels(tmp_path):
    write_video(tmp_path / "a.mp4", frames=5)
    write_video(tmp_path / "b.mp4", frames=4)
    write_labels(tmp_path, ["a.mp4,0,informative", "a.mp4,3,Non-informative", "b,1,1"])
    a, b = _colonoscopy.find(tmp_path)
    assert [frame.label for frame in read(a)] == [1, None, None, 0, None]
    assert [(f.index, f.label) for f in read(b, labelled_only=True)] == [(1, 1)]
    assert (tmp_path / "frame_quality_labels.csv").resolve() in a.files


def test_labels_of_a_video_that_is_not_there_are_named(tmp_path):
    write_video(tmp_path / "a.mp4", frames=2)
    write_labels(tmp_path, ["a.mp4,0,1", "gone.mp4,0,1"])
    a, gone = _colonoscopy.find(tmp_path)
    assert read(a)[0].label == 1 and "gone.mp4" in gone.name
    with pytest.raises(Unusable, match="not there"):
        read(gone)
    write_labels(tmp_path, ["other.mp4,0,1"])
    with pytest.raises(UserError, match="none of the videos.*other.mp4"):
        _colonoscopy.find(tmp_path)


@pytest.mark.parametrize(
    ("rows", "error", "reason"),
    [
        (["a.mp4,5,1"], Unusable, "labels go up to frame 5, but it has 5 frames"),
        (["a.mp4,0,maybe"], UserError, "label 'maybe'"),
        (["a.mp4,-1,1"], UserError, "frame_index '-1'"),
        (["a.mp4,1,1", "a.mp4,1,0"], UserError, "frame 1 of a.mp4 in two ways"),
        (["a.mp4,1,1", "a,2,0"], UserError, "names? a.mp4 in two ways"),
    ],
)
def test_labels_that_cannot_be(tmp_path, rows, error, reason):
    write_video(tmp_path / "a.mp4", frames=5)
    write_labels(tmp_path, rows)
    with pytest.raises(error, match=reason):
        read(only(tmp_path))


def test_subjects_and_splits(tmp_path):
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", frames=2 + ord(name) % 5)
    heading = "video;subject;split"
    write_labels(tmp_path, ["a;P1;train", "b;P1;train", "c;P2;test"], "videos.csv", heading)
    sources = _colonoscopy.find(tmp_path)
    assert [(s.subject, s.split) for s in sources] == [("P1", "train")] * 2 + [("P2", "test")]
    write_labels(tmp_path, ["a;P1;train", "b;P1;test"], "videos.csv", heading)
    with pytest.raises(UserError, match="a.mp4.*train.*b.mp4.*test.*P1"):
        _colonoscopy.find(tmp_path)
    write_labels(tmp_path, ["a;P1;train", "a;P1;test"], "videos.csv", heading)
    with pytest.raises(UserError, match="gives a the split train and the split test"):
        _colonoscopy.find(tmp_path)
    write_labels(tmp_path, ["a;P1;Training", "b;P2;dev", "c;P3;testing"], "videos.csv", heading)
    assert [s.split for s in _colonoscopy.find(tmp_path)] == ["train", "validation", "test"]
    write_labels(tmp_path, ["a;P1;trial"], "videos.csv", heading)
    with pytest.raises(UserError, match="split 'trial'"):
        _colonoscopy.find(tmp_path)


def test_the_same_video_twice(tmp_path):
    write_video(tmp_path / "a.mp4", frames=3)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    write_image(tmp_path / "b_masks/000000.png", disc())
    a, b = _colonoscopy.find(tmp_path)
    assert len(read(b)) == 3  # the one with masks stays
    with pytest.raises(Unusable, match="byte for byte"):
        read(a)
    assert b.video in a.files


def cut(path, share):
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.webm"])
def test_truncated_video(tmp_path, name):
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    container = FAST_START if name == "a.mp4" else {}
    path = write_video(tmp_path / name, frames=80, codec=codec, container=container)
    plain = decoded(path)
    cut(path, 0.7)
    with pytest.raises(Unusable, match=r"\d+ frames can be read.*--accept_truncated"):
        read(only(tmp_path))
    notes = []
    frames = read(only(tmp_path, accept_truncated=True), notes)
    assert 20 < len(frames) < 75
    assert any("cut off or damaged" in note for note in notes)
    for frame, other in zip(frames, plain, strict=False):  # and none of them is damaged
        np.testing.assert_array_equal(frame.image, other)


def test_masks_lie_on_turned_frames_at_any_sampling(tmp_path):
    turns = {"a": ((0, 1, -1, 0), 3), "b": ((-1, 0, 0, -1), 2), "c": ((0, -1, 1, 0), 1)}
    for name, (matrix, quarters) in turns.items():
        plain = write_video(tmp_path / f"{name}.mp4", frames=12, g=4)
        path = turned(plain, plain, [65536 * value for value in matrix])
        for n in (3, 9):
            mask = (pattern(n)[..., 0] > 240).astype(np.uint8) * 255
            write_image(tmp_path / f"{name}_masks/{n:06d}.png", np.rot90(mask, quarters))
        for source, step in itertools.product(_colonoscopy.find(path.parent), (1, 3)):
            notes = []
            for frame in read(source, notes, stride=step):
                red = (frame.image[..., 0].astype(int) - frame.image[..., 1]) > 100
                assert red.any() and (not frame.mask.any() or (red & frame.mask).sum() > 50)
            assert notes == [f"turned as the video's header says (frames: {12 // step})"]


def test_frames_in_avi_are_numbered_as_they_are_shown(tmp_path):
    # AVI and ASF keep times of storage; of H.264 and its like frames come in another order.
    for name in ("a.avi", "b.wmv"):
        path = write_video(tmp_path / name, frames=15, bf=3, g=30)
        frames = read(only(path), every_s=0.5)
        assert [frame.index for frame in frames] == [0, 5, 10]
        for frame in frames:
            assert abs(np.median(frame.image) - np.median(pattern(frame.index))) < 4
        np.testing.assert_allclose([frame.time_s for frame in frames], [0, 0.5, 1], atol=2e-3)
        write_labels(tmp_path, [f"{name},14,1", f"{path.name},3,0"])
        assert [f.index for f in read(only(path.parent), labelled_only=True)] == [3, 14]
        write_labels(tmp_path, [f"{name},15,1"])
        with pytest.raises(Unusable, match="frame 15, but it has 15 frames"):
            read(only(path.parent))
        path.unlink()


def test_packets_that_give_no_frame_are_not_counted(tmp_path):
    # MPEG-4 writes "as before" as a picture that is not coded; decoders give nothing for it.
    plain = write_video(tmp_path / "plain.avi", frames=12, codec="mpeg4", bf=0, g=30, rate=25)
    for name in ("a.avi", "b.mp4", "c.mkv"):
        (tmp_path / name[0]).mkdir()
        path = tmp_path / name[0] / name
        with av.open(str(plain)) as source, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            contents = [bytes(packet) for packet in source.demux(video=0) if packet.size]
            for place in (4, 9):
                bits = f"01 0 1 {place:05b} 1 0 0".replace(" ", "").ljust(16, "1")
                skipped = b"\0\0\1\xb6" + int(bits, 2).to_bytes(2, "big")
                contents.insert(place, skipped)
            for number, content in enumerate(contents):
                packet = av.Packet(content)
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 25), stream
                output.mux(packet)
        frames, others = read(only(path)), decoded(path)
        assert [frame.index for frame in frames] == list(range(len(others)))
        assert 11 <= len(others) <= 12  # FFmpeg 8.0 gives one less than 8.1
        for frame, other in zip(frames, others, strict=True):
            np.testing.assert_array_equal(frame.image, other)
            assert abs(np.median(frame.image) - np.median(pattern(frame.index))) < 4
        assert frames[4].time_s == pytest.approx(5 / 25, abs=2e-3)  # 4 showed the one before
        write_labels(path.parent, [f"{name},11,1", f"{name},12,1"])
        with pytest.raises(Unusable, match=f"up to frame 12, but it has {len(others)} frames"):
            read(only(path.parent))


@pytest.mark.parametrize("starts", [(0, 0), (1000, 0), (0, 1000)])
def test_two_recordings_in_one_stream_are_no_order_of_display(tmp_path, starts):
    parts = [
        write(tmp_path / f"{n}.mpg", "mpeg2video", colours("yuv420p"), range(n, n + 12))
        for n in starts
    ]
    joined = tmp_path / "c" / "c.mpg"
    joined.parent.mkdir()
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(only(joined))
    assert len(frames) == 24
    for frame, other in zip(frames, decoded(joined), strict=True):
        np.testing.assert_array_equal(frame.image, other)


def test_what_pixels_do_not_say_is_said(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuva420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pattern(number), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuva420p")))
        container.mux(stream.encode())
    write_video(tmp_path / "b.mp4", frames=3, **{"x264-params": "interlaced=1:tff=1"})
    write_video(tmp_path / "c.mkv", frames=3, **{"x264-params": "sar=16/11"})
    said = {}
    for source in _colonoscopy.find(tmp_path):
        assert read(source, said.setdefault(source.name, []))[0].image.shape == (HEIGHT, WIDTH, 3)
    assert said["a.mkv"] == ["an opacity channel was left out (frames: 3)"]
    assert said["b.mp4"] == ["interlaced: both fields of a frame were used as one (frames: 3)"]
    assert said["c.mkv"] == [
        "its pixels are not square (16:11): frames were used as stored (frames: 3)"
    ]


@pytest.mark.parametrize("live", ["0", "1"])
def test_a_hole_in_matroska_is_found(tmp_path, live):
    path = write_video(tmp_path / "a.mkv", frames=40, g=4, container={"live": live})
    content = path.read_bytes()
    assert len(read(only(path))) == 40
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size][8:30:7]
    for place in places:  # the element that holds a frame
        path.write_bytes(content[:place] + bytes(40) + content[place + 40 :])
        with pytest.raises(Unusable, match="cut off or damaged"):
            read(only(path))


def test_a_tag_that_asks_for_a_turn_is_refused(tmp_path):
    path = write_video(tmp_path / "plain.mkv", frames=3)
    for degrees, is_refused in (("90", True), ("0", False)):
        target = tmp_path / degrees / "a.mkv"
        target.parent.mkdir()
        with av.open(str(path)) as source, av.open(str(target), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            stream.metadata["ROTATE"] = degrees
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
        if is_refused:
            with pytest.raises(Unusable, match="asks for a turn by 90 degrees"):
                read(only(target))
        else:
            assert len(read(only(target))) == 3


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mov", "a.wmv", "a.mkv"])
def test_what_was_appended_to_a_file_is_no_cut(tmp_path, name):
    codec = {"a.wmv": "wmv2", "a.avi": "mpeg4"}.get(name, "libx264")
    path = write_video(tmp_path / name, frames=9, codec=codec, rate=25)
    path.write_bytes(path.read_bytes() + b"appended by an upload " * 9)
    assert len(read(only(tmp_path))) == 9


def test_labels_beyond_a_break_are_no_contradiction(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=80)
    write_labels(tmp_path, ["a.mkv,2,1", "a.mkv,79,0"])
    cut(path, 0.7)
    frames = read(only(tmp_path, accept_truncated=True), labelled_only=True)
    assert [(frame.index, frame.label) for frame in frames] == [(2, 1)]


@pytest.mark.parametrize("accept", [False, True])
def test_damage_amid_a_video(tmp_path, accept):
    path = write_video(tmp_path / "a.mp4", frames=60, g=30)
    plain = decoded(path)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    hit = next(p for p in packets if p.pts is not None and p.is_keyframe and p.pos > packets[0].pos)
    data[hit.pos + 8 : hit.pos + hit.size] = bytes(hit.size - 8)
    path.write_bytes(data)
    if not accept:
        with pytest.raises(Unusable, match="damaged: .* of 60 frames"):
            read(only(tmp_path))
        return
    frames = read(only(tmp_path, accept_truncated=True))
    assert 0 < len(frames) <= 30
    for frame, other in zip(frames, plain, strict=False):
        np.testing.assert_array_equal(frame.image, other)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"no video" * 99, "unreadable"), (None, "missing")]
)
def test_what_is_no_video(tmp_path, content, reason):
    path = tmp_path / "a.mp4"
    path.write_bytes(content or b"")
    source = only(tmp_path)
    if content is None:
        path.unlink()
    with pytest.raises(Unusable, match=reason) as raised:
        read(source)
    assert "a.mp4" not in str(raised.value)


def test_mp4_cut_before_its_table(tmp_path):
    cut(write_video(tmp_path / "a.mp4"), 0.5)
    with pytest.raises(Unusable, match="unreadable: no video, or cut off"):
        read(only(tmp_path))


def test_unknown_codec_and_sound_alone(tmp_path):
    path = write_video(tmp_path / "a.avi", codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQ77"))
    with pytest.raises(Unusable, match="codec is unknown"):
        read(only(tmp_path))
    with av.open(str(path := tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(Unusable, match="no video stream"):
        read(_colonoscopy.find(path)[0])


def test_one_video_as_input_and_a_file_that_is_none(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=3)
    write_video(tmp_path / "b.mp4", frames=4)
    (source,) = _colonoscopy.find(path)
    assert len(read(source)) == 3
    (tmp_path / "a.csv").write_text("no video")
    with pytest.raises(UserError, match="suffix"):
        _colonoscopy.find(tmp_path / "a.csv")


def test_folders_in_folders_and_hidden_files(tmp_path):
    write_video(tmp_path / "x/a.mp4", frames=2)
    write_video(tmp_path / "y/a.mp4", frames=3)
    (tmp_path / "y/._a.mp4").write_bytes(b"macOS")
    write_labels(tmp_path / "y", ["a.mp4,0,1"])
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == ["x/a.mp4", "y/a.mp4"]
    assert [read(s)[0].label for s in sources] == [None, 1]
    write_labels(tmp_path, ["a.mp4,0,1"])
    with pytest.raises(UserError, match="may be x/a.mp4 or y/a.mp4"):
        _colonoscopy.find(tmp_path)


def test_file_outside_the_folder(tmp_path):
    write_video(tmp_path / "secret.mp4")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(Unusable, match="outside"):
        read(only(tmp_path / "in"))


def test_memory_does_not_grow_with_the_video(tmp_path):
    def peak(frames):
        write_video(tmp_path / "a.mp4", frames=frames)
        source = only(tmp_path)
        tracemalloc.start()
        for frame in _colonoscopy.frames(source):
            del frame
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    size = HEIGHT * WIDTH * 3
    assert peak(120) - peak(20) < 8 * size  # not 100 frames more; the index takes a little


def test_find_says_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match="Looked for: .*videos"):
        _colonoscopy.find(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        _colonoscopy.find(tmp_path / "none")
    with pytest.raises(UserError, match="--layout must be one of"):
        _colonoscopy.find(tmp_path, Options(layout="movie"))
    write_video(tmp_path / "a.mp4", frames=2)
    write_image(tmp_path / "images/1.png")
    write_image(tmp_path / "masks/1.png", disc())
    with pytest.raises(UserError, match="more than one layout"):
        _colonoscopy.find(tmp_path)
    assert [s.name for s in _colonoscopy.find(tmp_path, Options(layout="video"))] == ["a.mp4"]


def test_natural_order():
    names = ["f10", "f9", "f1b", "a", "2", "10"]
    assert sorted(names, key=_colonoscopy.natural) == ["a", "f1b", "f9", "f10", "2", "10"]


def test_real_videos(real_data):
    folder = real_data / "colonoscopy_videos"
    sources = _colonoscopy.find(folder)
    assert [s.name for s in sources] == [f"{n}.mp4" for n in (1, 3, 4, 10, 16, 17)]
    source = next(s for s in sources if s.name == "16.mp4")
    labels = [frame.label for frame in _colonoscopy.frames(source)]
    assert labels.count(1) == 26 and labels.count(0) == 8
    plain = decoded(folder / "17.mp4")
    frames = read(sources[-1], every_s=5)
    assert [frame.index for frame in frames] == [0, 25, 50]
    assert [frame.time_s for frame in frames] == [0, 5, 10]
    for frame in frames:
        np.testing.assert_array_equal(frame.image, plain[frame.index])
