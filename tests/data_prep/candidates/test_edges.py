import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage

from data_prep.candidates import _context, _edges


def scene(height=120, width=160, border=20):
    """A bright disc on grey inside black surroundings, RGB, with the disc's centre and radius."""
    y, x = np.mgrid[:height, :width]
    image = np.where(np.hypot(x - 80, y - 60) <= 25, 150.0, 100.0)
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    image[:border], image[:, :border] = 0, 0
    image[height - border :], image[:, width - border :] = 0, 0
    return np.repeat(np.round(image).astype(np.uint8)[..., None], 3, axis=2)


def test_field_is_found_and_dark_places_inside_belong_to_it():
    image = scene()
    image[55:65, 75:85] = 0
    field = _edges.visible(image)
    expected = np.zeros((120, 160), bool)
    expected[20:100, 20:140] = True
    assert (field != expected).mean() < 0.002
    dark = np.zeros((30, 40, 3), np.uint8)
    assert _edges.visible(dark).all()


def test_working_frame_maps_points_back():
    image = scene()
    frame = _edges.working_frame(image, 196)  # sides 80 and 120: scale 2
    assert frame.field.shape == pytest.approx((160, 240), abs=4)
    rows, columns = np.nonzero(frame.channels[..., 0] > 125)
    x, y = frame.to_image(np.array([columns.mean(), rows.mean()]))
    assert (x, y) == pytest.approx((80, 60), abs=0.5)
    mask = image[..., 0] > 125
    assert (frame.crop(mask) != (frame.channels[..., 0] > 125)).mean() < 0.01


def test_edges_lie_on_the_disc_and_look_along_the_radius():
    frame = _edges.working_frame(scene(), 98)
    edges = _edges.find(frame, 0.6, 1.2, 2.0, 3)
    places = frame.to_image(edges.points)
    outward = places - (80, 60)
    distance = np.linalg.norm(outward, axis=1)
    assert len(edges) > 30
    np.testing.assert_allclose(distance, 25, atol=2)
    cosine = (outward / distance[:, None] * edges.normals).sum(axis=1)
    assert (np.abs(cosine) > 0.97).all()
    cells = edges.points // 3
    assert len(np.unique(cells, axis=0)) == len(edges)


def test_highlights_are_no_edges():
    image = scene()
    marked = image.copy()
    marked[58:63, 78:83] = 255
    plain, lit = (
        _edges.find(_edges.working_frame(i, 98), 0.6, 1.2, 2.0, 3) for i in (image, marked)
    )
    near = np.linalg.norm(lit.points - plain.points.mean(axis=0), axis=1) < 12
    assert not near.any()


def test_any_channel_gives_edges():
    grey = scene()
    image = np.full_like(grey, 100)
    image[grey == 0] = 0
    image[..., 2] = grey[..., 2]
    edges = _edges.find(_edges.working_frame(image, 98), 0.6, 1.2, 2.0, 3)
    assert len(edges) > 30


def make_edges(count=7, seed=0):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * np.pi, count)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return _edges.Edges(rng.uniform(5, 60, (count, 2)).astype(np.float32), normals)


def test_patches_equal_interpolation_point_by_point():
    image = np.random.default_rng(2).uniform(0, 255, (70, 80)).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), 2.0)
    edges = make_edges()
    found = _edges.patches(image, edges, 16, 8)
    for point, normal, patch in zip(edges.points, edges.normals, found, strict=True):
        for j in range(8):
            for i in range(16):
                u, v = i - 7.5, (j - 3.5) * 2
                x = point[0] + u * normal[0] - v * normal[1]
                y = point[1] + u * normal[1] + v * normal[0]
                expected = scipy.ndimage.map_coordinates(image, [[y], [x]], order=1, mode="nearest")
                assert patch[j, i] == pytest.approx(expected[0], abs=0.6)


def test_description_is_a_dct_of_strips():
    found = np.random.default_rng(3).uniform(0, 255, (2, 16, 24)).astype(np.float32)
    features = _edges.describe(found, 3, 1.5)
    assert features.shape == (2, 3, 5, 3)
    for n in range(2):
        for strip in range(3):
            profile = found[n, strip * 4 : strip * 4 + 8].mean(axis=0)
            for place in range(5):
                window = profile[place * 4 : place * 4 + 8]
                kept = scipy.fft.dct(window, norm="ortho")[1:4]
                np.testing.assert_allclose(
                    features[n, strip, place],
                    kept / (np.linalg.norm(kept) + 1.5),
                    atol=1e-4,
                )


def test_turned_features_are_those_of_the_opposite_normal():
    image = np.random.default_rng(4).uniform(0, 255, (70, 80)).astype(np.float32)
    edges = make_edges()
    opposite = _edges.Edges(edges.points, -edges.normals)
    ahead, back = (
        _edges.describe(_edges.patches(image, e, 16, 8), 3, 1.0) for e in (edges, opposite)
    )
    # Interpolation works in steps of 1/32 pixel, which the two directions round differently.
    np.testing.assert_allclose(_edges.turned(ahead), back, atol=0.05)


def test_no_edges():
    none = _edges.Edges(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))
    found = _edges.describe(_edges.patches(np.zeros((9, 9), np.uint8), none, 16, 8), 3, 1.0)
    assert found.shape == (0, 3, 3, 3)


def test_context_sees_what_lies_before_an_edge():
    # One edge at the origin of the view, and a likely edge 24 pixels along its normal.
    points = np.array([[60, 60], [60, 84]], np.float32)
    normals = np.array([[0, 1], [0, 1]], np.float32)
    answers = np.array([[0.2, 0.9], [0.1, 0.0]], np.float32)
    cells = 4
    views = _context.describe(
        _edges.Edges(points, normals), answers, (120, 120),
        window=32.0, cells=cells, ahead=24.0, step=2,
    )  # fmt: skip
    assert views.shape == (2, 2, 4 * cells**2 + 2)
    pointing = views[0, 0, : cells**2].reshape(cells, cells)
    beside = views[0, 0, cells**2 : 2 * cells**2]
    # The neighbour lies in the window's middle and points the same way.
    middle = pointing[1:3, 1:3]
    assert middle.min() > 0
    assert middle.sum() > 0.9 * pointing.sum()
    np.testing.assert_allclose(beside, 0, atol=1e-6)
    np.testing.assert_allclose(views[0, 0, -2:], [0.2, 0.1], atol=1e-6)
    # Looking back from the opposite normal nothing is seen but the own answers, swapped.
    assert np.abs(views[1, 0, :-2]).max() < 0.05 * middle.max()
    np.testing.assert_allclose(views[1, 0, -2:], [0.1, 0.2], atol=1e-6)


def test_context_turns_with_the_image():
    edges = make_edges(20, seed=5)
    answers = np.random.default_rng(6).uniform(0, 1, (2, 20)).astype(np.float32)
    grid = {"window": 40.0, "cells": 4, "ahead": 8.0, "step": 1}
    plain = _context.describe(edges, answers, (64, 64), **grid)
    # A quarter turn: (x, y) to (63 - y, x).
    quarter = np.array([[0, 1], [-1, 0]], np.float32)
    turned = _edges.Edges(edges.points @ quarter + np.float32([63, 0]), edges.normals @ quarter)
    # Pixel cells round the same way only if points lie on pixel centres.
    whole = _edges.Edges(np.round(edges.points), edges.normals)
    turned = _edges.Edges(np.round(turned.points), turned.normals)
    plain = _context.describe(whole, answers, (64, 64), **grid)
    np.testing.assert_allclose(
        _context.describe(turned, answers, (64, 64), **grid), plain, atol=0.02
    )
