"""The renderer, against computations of its own kind done slowly."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data_prep.phantoms import _colonoscopy as colon
from data_prep.phantoms import _endoscope, _film, _mucosa, _passage
from tests.data_prep.phantoms import colonoscopy as shared

HALF_FIELD = 1.05
SEEN = np.ones((colon.HEIGHT, colon.WIDTH), bool)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(4)
    style = _mucosa.draw_style(rng)
    scene = colon.Scene(style, _mucosa.draw_wall(style, rng), _passage.draw_bend(rng))
    lumps = [_passage.draw_polyp(scene, angle, 3.2, rng) for angle in (0.5, 2.6, 4.7)]
    lumps.append(_passage.draw_residue(scene, 1.5, 3.0, rng))
    return dataclasses.replace(scene, lumps=tuple(lumps))


@pytest.fixture(scope="module")
def camera(scene):
    axis = [float(value) for value in scene.bend.at(np.float32(1.0))]
    return _passage.camera(np.array([*axis, 1.0]), np.array([0.1, 0.0, 0.995]), 0.3)


@pytest.fixture(scope="module")
def view(scene, camera):
    return colon.look(scene, camera, HALF_FIELD, SEEN)


def points(camera, view):
    """Places (3, N) that all pixels show."""
    directions = camera.axes.T @ colon.rays(HALF_FIELD).reshape(3, -1)
    return colon.along(camera, directions, view.depth.ravel())


def test_projecting_undoes_rays(camera):
    directions = camera.axes.T @ colon.rays(HALF_FIELD).reshape(3, -1)
    distance = np.random.default_rng(0).uniform(0.5, 9, directions.shape[1])
    place, far = colon.project(camera, colon.along(camera, directions, distance), HALF_FIELD)
    y, x = np.mgrid[: colon.HEIGHT, : colon.WIDTH]
    np.testing.assert_allclose(place, [x.ravel(), y.ravel()], atol=0.01)
    np.testing.assert_allclose(far, distance, rtol=1e-4)
    np.testing.assert_allclose(colon.rays(HALF_FIELD, 3), colon.rays(HALF_FIELD)[:, 1::3, 1::3])
    edge = np.degrees(np.arccos(colon.rays(HALF_FIELD)[2, 144, -1]))
    assert edge == pytest.approx(np.degrees(HALF_FIELD), abs=0.3)


def test_look_up_is_linear_interpolation_round_the_colon(scene):
    rng = np.random.default_rng(1)
    place = rng.uniform(-360, 360, 2000), rng.uniform(0, _mucosa.ROWS - 2, 2000)
    found = colon.look_up(scene.wall.radius, tuple(axis.astype(np.float32) for axis in place))
    expected = ndimage.map_coordinates(
        scene.wall.radius.astype(float), [place[1], place[0]], order=1, mode="grid-wrap"
    )
    np.testing.assert_allclose(found, expected, atol=5e-3)  # OpenCV may round to 1/32 pixel


def test_rays_end_at_the_first_tissue(scene, camera, view):
    """Against steps of 0.2 mm along sampled rays."""
    index = np.random.default_rng(2).choice(view.depth.size, 300, replace=False)
    directions = (camera.axes.T @ colon.rays(HALF_FIELD).reshape(3, -1))[:, index]
    depth, first = view.depth.ravel()[index], np.full(300, colon.REACH)
    for distance in np.arange(colon.REACH, 0, -0.02):
        reached = np.full(300, distance, np.float32)
        free = scene.free(colon.along(camera, directions, reached), exact=True)[0]
        first[free <= 0] = distance
    near = np.abs(depth - first) < 0.05
    assert near.mean() > 0.97  # the others pass an edge within a step


def test_the_truth_is_what_rays_end_on(scene, camera, view):
    """Every pixel of the mask lies on a polyp, and none beside it does."""
    where = points(camera, view)
    polyps = np.min([lump.distance(where) for lump in scene.lumps if lump.polyp], axis=0)
    wall = scene.free(where, exact=True)[1]
    mask = view.mask.ravel()
    assert 500 < mask.sum() < 0.3 * mask.size
    assert np.abs(polyps[mask]).max() < 0.15
    clear = np.abs(polyps - wall) > 0.05
    np.testing.assert_array_equal(mask[clear], (polyps < wall)[clear])


def test_lumps_stand_on_the_wall(scene):
    for lump in scene.lumps:
        assert abs(scene.free(lump.foot[:, None], exact=True)[1][0]) < 0.05
        assert lump.distance(lump.foot[:, None] - 3 * lump.axes[2][:, None])[0] > 0
        np.testing.assert_allclose(lump.axes @ lump.axes.T, np.eye(3), atol=1e-5)


def test_normals_are_gradients(scene, camera, view):
    bare = dataclasses.replace(scene, lumps=())
    near = view.depth.ravel() < 5
    where = points(camera, view)[:, near][:, ::97]
    normal = bare.normals(where)[0]
    ahead, behind = (
        [bare.free(where + 0.02 * sign * axis[:, None], True)[0] for axis in np.eye(3, dtype="f")]
        for sign in (1, -1)
    )
    expected = colon.unit(np.array(ahead) - np.array(behind))
    cosine = (normal * expected).sum(axis=0)
    assert np.median(cosine) > 0.99 and np.quantile(cosine, 0.05) > 0.9


def test_near_is_bright_and_far_is_dark(view):
    light = view.light.mean(axis=2)
    near, far = view.depth < np.quantile(view.depth, 0.2), view.depth > 8
    assert light[near].mean() > 10 * light[far].mean()


def test_pixels_not_asked_for_stay_black(scene, camera, view):
    seen = _endoscope.field_of_view("round") > 0
    part = colon.look(scene, camera, HALF_FIELD, seen)
    assert not part.light[~seen].any() and not part.mask[~seen].any()
    inner = ndimage.binary_erosion(seen, iterations=8)
    np.testing.assert_allclose(part.depth[inner], view.depth[inner], atol=0.2)


class TestEndoscope:
    def test_shapes(self):
        areas = [_endoscope.field_of_view(s).mean() for s in ("octagon", "round", "corners")]
        assert 0.5 < min(areas) < max(areas) < 0.97
        with pytest.raises(ValueError, match="square"):
            _endoscope.field_of_view("square")

    def test_exposure_reaches_its_target(self, view):
        processor = dataclasses.replace(
            _endoscope.draw_processor(np.random.default_rng(0)), target=0.7, shape="octagon"
        )
        gain = _endoscope.exposure(view.light, processor)
        inside = _endoscope.field_of_view("octagon") > 0.5
        level = np.quantile((gain * view.light.mean(axis=2))[inside], 0.8)
        assert (1 - np.exp(-level)) ** (1 / 2.2) == pytest.approx(0.7, abs=0.01)

    @pytest.mark.parametrize(
        "fault", [{"defocus": 6.0}, {"streak": (30.0, 12.0)}, {"veil": 0.8}, {"blush": 0.9}]
    )
    def test_faults_take_detail(self, view, fault):
        processor = _endoscope.draw_processor(np.random.default_rng(0))
        gain = _endoscope.exposure(view.light, processor)
        detail = []
        for settings in ({}, fault):
            light = _endoscope.record(
                view, gain, processor, _endoscope.Fault(**settings), np.random.default_rng(1)
            )
            detail.append(np.abs(ndimage.laplace(np.minimum(light, 2).mean(axis=2))).mean())
        assert detail[1] < 0.6 * detail[0]

    def test_a_streak_keeps_the_light(self):
        for kernel in (_endoscope._line((17.3, -6.0)), _endoscope._disc(4.4)):
            assert kernel.sum() == pytest.approx(1, abs=1e-5)
        line = _endoscope._line((20.0, 20.0))
        assert line.trace() > 0.5 > line[:, ::-1].trace()  # it runs right and down


class TestFilm:
    def test_bubbles_beyond_the_picture(self):
        picture = np.full((colon.HEIGHT, colon.WIDTH, 3), 0.5, np.float32)
        places = np.array([[-50.0, 5.0, 380.0], [20.0, 3.0, 290.0]])
        _film.draw_bubbles(picture, places, np.array([10.0, 20.0, 15.0]))
        assert (picture[60:200] == 0.5).all() and (picture[:20, :25] != 0.5).any()
        _film.draw_bubbles(picture, np.zeros((2, 0)), np.zeros(0))

    @pytest.mark.parametrize("encoders", [{"libx264"}, set()])
    def test_video_is_read_back(self, tmp_path, monkeypatch, encoders):
        available = set(_film.av.codecs_available) - {"libx264"} | encoders
        monkeypatch.setattr(_film.av, "codecs_available", available)
        rng = np.random.default_rng(0)
        shape = (12, colon.HEIGHT, colon.WIDTH, 3)
        frames = ndimage.gaussian_filter(rng.normal(size=shape), (2, 8, 8, 0))
        frames = np.clip(128 + 40 * frames / frames.std(), 0, 255).astype(np.uint8)
        for name in ("first.mp4", "second.mp4"):
            _film.write_video(tmp_path / name, frames)
        found, rate = shared.decode(tmp_path / "first.mp4")
        assert rate == _film.FRAMES_PER_SECOND and found.shape == frames.shape
        assert np.abs(found.astype(int) - frames).mean() < 6
        assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()
