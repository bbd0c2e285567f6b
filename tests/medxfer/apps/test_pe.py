"""The embolism app: candidates scored by their vessel planes, FROC by volume, raw CT."""

import csv
import hashlib
import json
import pathlib
import shutil
import types

import numpy as np
import pydicom
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_prep import pe as prep
from data_prep.candidates import embolus
from data_prep.errors import UserError
from data_prep.phantoms import pe as phantom
from data_prep.readers._volumes import Volume
from medxfer import data
from medxfer.apps import _ct_volume, pe
from tests.data_prep.readers import synthetic_ct
from tests.testing.app_test_case import AppTestCase

SMALL = prep.Settings(patch=32, patches_per_candidate=3)


def darkness(images):
    """A stand-in for a network: the darker the middle, the more an embolus."""
    side = images.shape[1]
    middle = images[:, side // 3 : -side // 3, side // 3 : -side // 3]
    share = 1 - middle.mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - share, share], axis=1).astype(np.float32)


class TestPe(AppTestCase):
    name = "pe"
    classes = ("other", "embolus")
    phantom = {"patients": 4, "seed": 1}
    scores = [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], 1.0),
        ([[0.1, 0.9], [0.8, 0.2]], [0, 1], 0.0),
    ]

    def settings(self):
        return SMALL

    def network(self):
        return types.SimpleNamespace(classify=darkness, patch=SMALL.patch, settings={})

    @pytest.mark.slow
    def test_the_phantom_of_a_first_try_is_made_once(self, app, raw, tmp_path, monkeypatch):
        super().test_the_phantom_of_a_first_try_is_made_once(app, raw, tmp_path, monkeypatch)

    def test_emboli_and_candidates_agree(self, folder, methods):
        results = methods["network"]
        for case, fact in folder.truth["test"].items():
            own = [found for found in results if found.case == case]
            assert len(own) == fact["candidates"]
            assert len({found.lesion for found in own} - {-1}) == fact["found"]
            for found in own:
                if found.lesion >= 0:
                    lesion = fact["lesions"][found.lesion]
                    reach = (3 * lesion["volume_mm3"] / (4 * np.pi)) ** (1 / 3)
                    apart = [found.places[axis] - lesion[axis] for axis in "xyz"]
                    # Inside an embolus, which may be as long as some radii of its ball.
                    assert np.linalg.norm(apart) < 6 * reach + 2

    def test_scores_do_not_depend_on_what_is_scored_beside_it(self, app, folder, methods):
        scorer = app.cnn(self.network())
        for unit, found in zip(data.units(folder, "test"), methods["network"], strict=True):
            assert found.score == scorer(unit)

    def test_no_identifier_is_in_the_records(self, folder):
        found = b"".join(path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
        planted = phantom.identifiers(**{k: self.phantom[k] for k in ("seed", "patients")})
        assert len(planted) > 20
        for text in planted:
            assert text.encode() not in found

    def test_predict_on_a_series(self, app, raw, folder, tmp_path):
        series = next(path for path in app.raw_inputs(raw) if path.is_dir())
        scorer = app.cnn(self.network())
        found = app.predict(series, scorer, folder.settings, "a", tmp_path)
        table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        content = json.loads((tmp_path / "a.json").read_text())
        assert len(table) == len(content["candidates"]) == found["candidates"] > 0
        probabilities = [entry["probability"] for entry in content["candidates"]]
        assert probabilities == sorted(probabilities)[::-1]
        assert (tmp_path / "a.png").stat().st_size > 1000
        some = next(path for path in series.iterdir() if path.is_file())
        uid = str(pydicom.dcmread(some, stop_before_pixels=True).SeriesInstanceUID)
        assert content["series_uid_sha256"] == hashlib.sha256(uid.encode()).hexdigest()
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        for text in phantom.identifiers(**{k: self.phantom[k] for k in ("seed", "patients")}):
            assert text.encode() not in written
        assert f"{found['candidates']} candidates" in app.describe(found)

    def test_series_that_share_folders_or_fill_several(
        self, app, raw, folder, tmp_path, monkeypatch
    ):
        first, second = app.raw_inputs(raw)[:2]
        mixed = tmp_path / "mixed"
        for number, folder_of_one in enumerate((first, second)):
            for count, path in enumerate(sorted(folder_of_one.iterdir())):
                place = mixed / f"{count % 2}" / f"{number}-{count}"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        inputs = app.raw_inputs(mixed)
        assert len(inputs) == 2 and all(path.is_file() for path in inputs)
        volumes = []
        monkeypatch.setattr(embolus, "find", lambda hu, *_, **__: volumes.append(hu) or [])
        series = []
        for path in (first, second, *inputs):
            app.predict(path, None, folder.settings, "a", tmp_path)
            series.append(json.loads((tmp_path / "a.json").read_text())["series_uid_sha256"])
        assert sorted(series[:2]) == sorted(series[2:]) and series[0] != series[1]
        for name, volume in zip(series[2:], volumes[2:], strict=True):
            np.testing.assert_array_equal(volume, volumes[series.index(name)])

    def test_predict_takes_one_volume(self, app, raw, tmp_path):
        with pytest.raises(UserError, match="CT volumes"):
            pe.predict(raw, None, {"patch": 32}, "a", tmp_path)


def test_a_series_without_preambles_is_predicted(tmp_path, monkeypatch):
    """Old archives keep the elements alone: no preamble and no meta elements."""
    for path in synthetic_ct.series(tmp_path / "in"):
        elements = pydicom.dcmread(path)
        bare = pydicom.Dataset()
        bare.update(elements)
        bare.save_as(path.with_suffix(".dcm"), implicit_vr=False, little_endian=True)
        path.unlink()
    monkeypatch.setattr(embolus, "find", lambda *_, **__: [])
    settings = {"patch": 32, "top_k": 10, "test_patches": 3}
    (folder,) = pe.raw_inputs(tmp_path / "in")
    pe.predict(folder, None, settings, "a", tmp_path)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["series_uid_sha256"] == hashlib.sha256(b"1.2.3.4").hexdigest()


def test_derived_series_are_predicted_by_a_network_that_learnt_from_such(tmp_path, monkeypatch):
    paths = synthetic_ct.series(tmp_path / "in" / "a", ImageType=["DERIVED", "PRIMARY"])
    monkeypatch.setattr(embolus, "find", lambda *_, **__: [])
    settings = {"patch": 32, "top_k": 10, "test_patches": 3}
    (folder,) = pe.raw_inputs(tmp_path / "in")
    with pytest.raises(UserError, match="calls itself derived"):
        pe.predict(folder, None, settings, "a", tmp_path)
    for path in (folder, paths[0]):
        found = pe.predict(path, None, settings | {"derived": True}, "a", tmp_path)
        assert found["candidates"] == 0
    synthetic_ct.series(tmp_path / "in" / "b", SeriesInstanceUID="1.2.3.5")
    assert pe.raw_inputs(tmp_path / "in") == [folder.with_name("b")]


def rendered(volume, voxel):
    figure = Figure(figsize=(2, 2), dpi=100)
    canvas, axis = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    _ct_volume._slice(axis, volume, voxel)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(float), axis


@pytest.mark.parametrize("signs", [(-1, 1), (1, -1), (-1, -1)])
def test_a_slice_is_shown_alike_whatever_the_order_of_its_file(signs, monkeypatch):
    monkeypatch.setattr(_ct_volume, "SLICE_MM", 5.0)
    hu = synthetic_ct.chest((3, 8, 9)) + np.int16(900)
    affine, voxel = synthetic_ct.affine((1.0, 0.5, 0.5)), (1, 4, 5)
    plain, axis = rendered(Volume(hu, np.array([1.0, 0.5, 0.5]), affine), voxel)
    letters = {text.get_text(): text.get_position() for text in axis.texts}
    assert letters == {"R": (0.05, 0.5), "L": (0.95, 0.5), "A": (0.5, 0.95), "P": (0.5, 0.05)}
    turned = np.diag([*signs, 1.0, 1.0])
    turned[:2, 3] = [(length - 1) * (sign < 0) for length, sign in zip((9, 8), signs, strict=True)]
    stored = hu[:, :: signs[1], :: signs[0]]
    x, y = (turned @ [5, 4, 1, 1])[:2].astype(int)  # a mirror is its own inverse
    assert stored[1, y, x] == hu[voxel]
    other, _ = rendered(Volume(stored, np.array([1.0, 0.5, 0.5]), affine @ turned), (1, y, x))
    assert np.abs(plain - other).mean() < 0.02 * plain.std()
    unplaced = Volume(stored, np.array([1.0, 0.5, 0.5]), affine, placed=False)
    assert not list(rendered(unplaced, (1, y, x))[1].texts)


@pytest.mark.parametrize(
    ("direction", "sides"),
    [((0.9, 0.3, 0), "RL"), ((-1, 0, 0), "LR"), ((0, 0.1, -2), "SI"), ((0, -0.7, 0.5), "PA")],
)
def test_sides_of_an_axis(direction, sides):
    assert _ct_volume._sides(np.array(direction)) == sides


def test_the_key_is_kept_beside_the_output(tmp_path):
    output = pathlib.Path(tmp_path / "data")
    key = prep.kept_key(output)
    place = tmp_path / "data.key"
    assert place.stat().st_mode & 0o077 == 0
    assert prep.kept_key(output) == key
    assert prep.kept_key(tmp_path / "other") != key
