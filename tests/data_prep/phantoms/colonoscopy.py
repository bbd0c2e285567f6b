"""What the tests of the colonoscopy phantoms share."""

import hashlib

import av
import numpy as np


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def decode(path):
    """Frames uint8 (N, H, W, 3) and their rate."""
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.array(frames), rate


def check_ensure(phantom, monkeypatch, folder, name):
    """The folder is whole or absent, whoever else asks, and made once only."""

    def small(folder, seed):
        (folder / "video").write_text(str(seed))

    monkeypatch.setattr(phantom, "generate", small)
    made = phantom.ensure(folder / "cache", seed=5)
    assert made.name == f"{name}-phantom-{phantom.VERSION}-5"
    before = made.stat().st_mtime_ns, digests(made)
    assert phantom.ensure(folder / "cache", seed=5) == made
    assert (made.stat().st_mtime_ns, digests(made)) == before
    assert phantom.ensure(folder / "cache", seed=6) != made

    def broken(folder, seed):
        small(folder, seed)
        raise RuntimeError("disk full")

    monkeypatch.setattr(phantom, "generate", broken)
    try:
        phantom.ensure(folder / "cache", seed=7)
    except RuntimeError:
        pass
    assert len(list((folder / "cache").iterdir())) == 2

    def overtaken(folder, seed):
        target = folder.parent / f"{name}-phantom-{phantom.VERSION}-{seed}"
        target.mkdir()
        (target / "theirs").touch()
        (folder / "mine").touch()

    monkeypatch.setattr(phantom, "generate", overtaken)
    made = phantom.ensure(folder / "cache", seed=8)
    assert [path.name for path in made.iterdir()] == ["theirs"]


def out_of_video(features, labels, videos, fit):
    """Scores of every example by a classifier that has not seen its video."""
    scores = np.empty(len(labels))
    for video in np.unique(videos):
        others = videos != video
        scores[~others] = fit(features[others], labels[others])(features[~others])
    return scores
