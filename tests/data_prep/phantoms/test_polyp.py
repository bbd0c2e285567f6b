import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from data_prep.phantoms import polyp as phantom
from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH
from medxfer.evaluation import roc
from tests.data_prep.phantoms import colonoscopy as shared

VIDEOS, FRAMES = 8, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polyp-phantom")
    phantom.generate(folder, seed=2, videos=VIDEOS, frames=FRAMES)
    return folder


def masks_of(folder, name):
    """Masks bool (FRAMES, H, W) of a video."""
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    for path in (folder / f"{name}_masks").iterdir():
        values = np.asarray(Image.open(path))
        assert set(np.unique(values)) == {0, 255} and values.ndim == 2
        masks[int(path.stem)] = values > 127
    return masks


@pytest.fixture(scope="module")
def videos(folder):
    names = [path.stem for path in sorted(folder.glob("*.mp4"))]
    return [(shared.decode(folder / f"{name}.mp4")[0], masks_of(folder, name)) for name in names]


def test_layout(folder, videos):
    assert len(videos) == VIDEOS
    assert len(list(folder.iterdir())) == 2 * VIDEOS
    for number, (frames, masks) in enumerate(videos):
        assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
        shown = masks.any(axis=(1, 2)).mean()
        assert shown >= 0.5 if number % 2 == 0 else shown == 0


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        phantom.generate(tmp_path / name, seed=seed, videos=2, frames=2)
    first = shared.digests(tmp_path / "first")
    assert shared.digests(tmp_path / "again") == first
    assert shared.digests(tmp_path / "other")["video_00.mp4"] != first["video_00.mp4"]


def test_frames_follow_each_other(videos):
    small = np.array([frames[:, 4::9, 4::9].mean(axis=3) for frames, _ in videos])
    following = np.abs(np.diff(small, axis=1)).mean()
    strangers = np.abs(small[1:] - small[:-1]).mean()
    assert 0 < following < 0.6 * strangers


def test_polyps_differ(videos):
    sizes, shades = [], []
    for frames, masks in videos:
        for frame, mask in zip(frames, masks, strict=True):
            if mask.any():
                ring = ndimage.binary_dilation(mask, iterations=12) & ~mask
                sizes.append(mask.sum())
                shades.append(frame[mask].mean(axis=0) - frame[ring].mean(axis=0))
            parts, count = ndimage.label(mask)
            assert count <= 4
            assert count == 0 or np.bincount(parts.ravel())[1:].min() >= phantom.MIN_PIXELS
    assert np.quantile(sizes, 0.9) > 2 * np.quantile(sizes, 0.1)
    shades = np.array(shades)
    assert (shades[:, 0] > 0).any() and (shades[:, 1] < 0).any() and (shades[:, 1] > 0).any()


def test_colour_of_a_pixel_does_not_find_polyps(videos):
    """A forest on the colours of pixels, scored in videos that it has not seen."""
    rng = np.random.default_rng(0)
    colours, labels, names = [], [], []
    for number, (frames, masks) in enumerate(videos):
        if not masks.any():
            continue
        inside = frames.max(axis=3) > 30  # neither border nor the dark end of the lumen
        for value in (True, False):
            found = frames[inside & (masks == value)]
            found = found[rng.choice(len(found), 1500)]
            colours.append(found)
            labels.append(np.full(1500, value))
            names.append(np.full(1500, number))
    colours, labels, names = (np.concatenate(part) for part in (colours, labels, names))

    def fit(features, labels):
        forest = RandomForestClassifier(30, min_samples_leaf=20, random_state=0)
        forest.fit(features, labels)
        return lambda known: forest.predict_proba(known)[:, 1]

    scores = shared.out_of_video(colours.astype(np.float32), labels, names, fit)
    assert 0.4 < roc.auc(labels, scores) < 0.8


def test_mean_colour_does_not_find_frames_with_polyps(videos):
    means = [np.r_[f.mean(axis=(0, 1)), f.std(axis=(0, 1))] for v, _ in videos for f in v]
    labels = np.array([m.any() for _, masks in videos for m in masks])
    names = np.repeat(np.arange(len(videos)), FRAMES)

    def fit(features, labels):
        forest = RandomForestClassifier(100, random_state=0).fit(features, labels)
        return lambda known: forest.predict_proba(known)[:, 1]

    assert roc.auc(labels, shared.out_of_video(np.array(means), labels, names, fit)) < 0.85


def test_ensure_is_whole_or_absent(tmp_path, monkeypatch):
    shared.check_ensure(phantom, monkeypatch, tmp_path, "polyp")
