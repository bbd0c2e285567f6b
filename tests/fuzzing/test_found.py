"""Inputs that once ended a reader with an error that nobody expected, as small as they can be."""

import json
import struct
import zipfile

import h5py
import numpy as np
import pydicom
import pytest

from data_prep.candidates import polyp
from data_prep.errors import UserError
from data_prep.readers import _classification, _colonoscopy, _deflated, image_npz
from data_prep.readers._images import Unusable
from medxfer.config import Config
from medxfer.weights import hdf5
from tests.data_prep.pictures import texture, write_dicom
from tests.data_prep.readers.test_classification import arrays
from tests.fuzzing import hostile


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "in" / "set.npz"
    path.parent.mkdir()
    np.savez_compressed(path, **arrays())
    return path


def body(path, member):
    """Where the packed bytes of a member begin."""
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset
    name, extra = struct.unpack("<HH", path.read_bytes()[start + 26 : start + 30])
    return start + 30 + name + extra


def change(path, place, new):
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)


@pytest.mark.parametrize("new", [b"\x00", bytes(300)])  # other pixels; no deflate stream
def test_pixels_of_an_archive_that_cannot_be_unpacked(archive, tmp_path, new):
    found = _classification.find(archive.parent)
    change(archive, body(archive, "train_images.npy") + 2000, new)
    with pytest.raises(UserError, match="train_images is damaged"):
        image_npz.unpack(found.pictures, archive, tmp_path / "arrays")
    assert not list((tmp_path / "arrays").glob("*.partial"))


def test_labels_that_cannot_be_unpacked(archive):
    change(archive, body(archive, "train_labels.npy"), b"\xff" * 20)
    with pytest.raises(UserError, match="damaged or no npz file"):
        _classification.find(archive.parent)


def test_a_header_that_is_no_python(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        header = b"{'descr': (".ljust(118)
        file.writestr("train_images.npy", b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(UserError, match="damaged or no npz file"):
        _classification.find(tmp_path)


def test_an_array_longer_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        with file.open("train_images.npy", "w") as member:
            np.lib.format.write_array(member, np.zeros((2, 28, 28), np.uint8))
            member.write(bytes(100))
    with pytest.raises(UserError, match="longer than it says"):
        _classification.find(tmp_path)


@pytest.mark.parametrize("damage", ["packed", "version"])
def test_a_detector_that_cannot_be_unpacked(tmp_path, damage):
    path = tmp_path / "candidates.npz"
    np.savez_compressed(path, format=np.array(polyp._FORMAT), settings=np.array("x" * 500))
    if damage == "packed":
        change(path, body(path, "settings.npy"), b"\xff" * 20)
    else:
        place = path.read_bytes().index(b"PK\x01\x02")
        change(path, place + 6, b"\x80")
    with pytest.raises(UserError, match="cannot be read as a polyp detector"):
        polyp.load(path)


@pytest.mark.parametrize("name", ["frames.csv", "kavsir_bboxes.json"])
def test_tables_that_are_links_out(tmp_path, name):
    (tmp_path / "secret").write_text("image,mask,case\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link that leads out of the input folder"):
        _colonoscopy.find(tmp_path / "in")


def test_json_too_deep(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a readable run configuration"):
        Config.load(path)
    with pytest.raises(RecursionError):
        json.loads(path.read_text())


def test_elements_that_inflate_without_end(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", texture(1))
    _deflated.require_room(path)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path)
    _deflated.require_room(path)
    monkeypatch.setattr(_deflated, "LARGEST", 1000)
    with pytest.raises(Unusable, match="unpack to more than"):
        _deflated.require_room(path)
    change(path, 144 + int.from_bytes(path.read_bytes()[140:144], "little"), b"\xff")
    monkeypatch.undo()
    with pytest.raises(Unusable, match="unreadable"):
        _deflated.require_room(path)


@pytest.mark.parametrize("how", ["link", "external", "virtual"])
def test_weights_that_are_stored_elsewhere(tmp_path, how):
    outside = hostile.Outside(tmp_path / "outside")
    secret, path = outside.place / "secret", tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv"
        if how == "link":
            group["0"] = h5py.ExternalLink(str(secret), "/")
        elif how == "external":
            group.create_dataset("0", (2,), "<f4", external=[(str(secret), 0, 8)])
        else:
            layout = h5py.VirtualLayout((2,), "<f4")
            layout[:] = h5py.VirtualSource(str(secret), "x", (2,))
            group.create_virtual_dataset("0", layout)
    outside.opened()
    with pytest.raises(UserError, match="another file"):
        hdf5.read(path)
    assert not outside.opened()


def test_a_text_that_is_its_own_successor(tmp_path):
    """HDF5 would read the same object of the heap for ever."""
    path = tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv"
        group["0"] = np.ones(3, np.float32)
    assert list(hdf5.read(path).layers) == ["conv"]
    place = path.read_bytes().index(b"GCOL") + 16
    change(path, place + 8, struct.pack("<Q", 2**64 - 16))
    with pytest.raises(UserError, match="a collection of texts in it is damaged"):
        hdf5.read(path)
