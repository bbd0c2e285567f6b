"""Volumes in NIfTI, NRRD and MetaImage against nibabel, pynrrd and SimpleITK."""

import itertools
import logging
import pathlib
import re
import struct
import warnings

import nibabel
import nrrd
import numpy as np
import pytest

from data_prep.readers import _volumes
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic_ct import SPACING, affine, chest, rotation
from tests.sweep.tally import Tally

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FLIPS = np.diag([-1.0, 1.0, -1.0])
TURNS = {
    "straight": np.eye(3),
    "oblique": rotation(0.4, -0.3, 1.0),
    "mirrored": rotation(0.1, 0.0, 0.2) @ np.diag([-1.0, 1.0, 1.0]),
    "axes exchanged": np.eye(3)[:, [2, 0, 1]],
    "reversed": FLIPS,
}
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "LPS": (1, 1, 1),
    "RAS": (-1, -1, 1),
    "LAS": (1, -1, 1),
    "scanner-xyz": (1, 1, 1),
}
# Name -> byte of the header of NIfTI-1, format, value.
PATCHES = {
    "as written": (),
    "qfac 0": ((76, "f", 0.0),),
    "qfac 3": ((76, "f", 3.0),),
    "pixdim negative": ((80, "f", -SPACING[2]), (88, "f", -SPACING[0])),
    "pixdim zero": ((80, "f", 0.0), (84, "f", 0.0), (88, "f", 0.0)),
    "pixdim 1": ((80, "f", 1.0), (84, "f", 1.0), (88, "f", 1.0)),
    "pixdim NaN": ((84, "f", np.nan),),
    "quaternion NaN": ((256, "f", np.nan),),
    "quaternion too long": ((256, "f", 0.9), (260, "f", 0.9)),
    "qform elsewhere": ((268, "f", 250.0),),
    "qform turned": ((256, "f", 0.0), (260, "f", 0.0), (264, "f", 1.0)),
    "sform of zeros": tuple((280 + 4 * k, "f", 0.0) for k in range(12)),
    "slope 0": ((112, "f", 0.0), (116, "f", -1024.0)),
    "slope NaN": ((112, "f", np.nan),),
    "units unknown": ((123, "B", 0),),
    "units reserved": ((123, "B", 5),),
    "units with time": ((123, "B", 2 + 8),),
}
KINDS = ("<i2", ">i2", "<i4", "<i8", ">i8", "<f4", ">f8", "<u2", ">u4", "<u8")


def stored(kind: str) -> tuple[np.ndarray, float, float]:
    """Voxels of a type, slope and intercept that make them Hounsfield units."""
    hu = chest().astype(np.float64)
    if np.dtype(kind).kind == "u":
        return (hu + 1024).astype(kind), 1.0, -1024.0
    return hu.astype(kind), 1.0, 0.0


def compare(tally: Tally, name: str, folder: pathlib.Path, hu: np.ndarray, world) -> None:
    """Count what the product makes of the one volume of a folder.

    ``world`` is LPS mm, None where the file does not place its volume. Notes say of a choice
    between two forms, so that such a volume counts as read if it is either of them.
    """
    try:
        (source,) = _volumes.find(folder)
        volume = _volumes.read(source)
    except Unusable as error:
        tally.refuse(name, re.sub(r"^a\S+: ", "", str(error)))
        return
    same = np.array_equal(volume.hu, np.maximum(np.rint(hu), -1024))
    if world is None:
        tally.agree(name, same and not volume.placed, f"placed: {volume.placed}")
    else:
        tally.agree(
            name, same and np.allclose(volume.affine, world, atol=1e-3), f"{volume.affine} {world}"
        )


def write_nifti(path, voxels, world, codes, scale=None, kind=nibabel.Nifti1Image) -> None:
    order = ">" if voxels.dtype.byteorder == ">" else "<"
    header = kind.header_class(endianness=order)
    header.set_data_dtype(voxels.dtype)
    image = kind(np.ascontiguousarray(voxels.T), None, header)
    image.header.set_xyzt_units("mm")
    for code, put in zip(codes, (image.header.set_sform, image.header.set_qform), strict=True):
        if code:
            put(LPS @ world, code)
    image.header.set_zooms(SPACING[::-1])
    if scale:
        image.header.set_slope_inter(*scale)
    nibabel.save(image, path)


def nifti_world(path, codes) -> np.ndarray | None:
    """By nibabel, whose header checks are those of every program that uses it."""
    found = nibabel.load(path)
    return LPS @ found.affine if any(codes) else None


def nifti(folder: pathlib.Path) -> Tally:
    """Types and containers; orientations and forms; headers with a field that is off."""
    tally = Tally("NIfTI against nibabel")
    containers = {
        ".nii": nibabel.Nifti1Image,
        ".nii.gz": nibabel.Nifti1Image,
        ".hdr": nibabel.Nifti1Pair,
        "2.nii.gz": nibabel.Nifti2Image,
    }
    variants = [
        (kind, end, turn, (1, 1), "as written")
        for kind, end, turn in itertools.product(KINDS, containers, ("straight", "oblique"))
    ]
    variants += [
        ("<i2", ".nii", turn, codes, patch)
        for turn, codes, patch in itertools.product(
            TURNS, ((1, 1), (1, 0), (0, 1), (2, 1), (0, 0)), PATCHES
        )
    ]
    for number, (kind, end, turn, codes, patch) in enumerate(variants):
        name = f"{kind} {end} {turn} sform, qform {codes} {patch}"
        place = folder / f"{number}"
        place.mkdir()
        voxels, slope, intercept = stored(kind)
        path = place / f"a{end}"
        scale = (slope, intercept) if intercept else None
        write_nifti(path, voxels, affine(axes=TURNS[turn]), codes, scale, containers[end])
        if PATCHES[patch]:
            content = bytearray(path.read_bytes())
            for offset, form, value in PATCHES[patch]:
                struct.pack_into(f"<{form}", content, offset, value)
            path.write_bytes(content)
        try:
            world = nifti_world(path, codes)
            hu = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
        except Exception:  # of kinds of nibabel and NumPy: then nobody knows
            hu, world = np.empty(0), None
        compare(tally, name, place, hu, world)
    return tally


def nrrd_files(folder: pathlib.Path) -> Tally:
    """Types, encodings, spaces and odd fields, written by pynrrd and read by it."""
    tally = Tally("NRRD against pynrrd")
    signed = [kind for kind in KINDS if "u" not in kind]
    variants = [
        (kind, encoding, suffix, space, "straight", {})
        for kind, encoding, suffix, space in itertools.product(
            signed, ("raw", "gzip", "bzip2", "ascii"), (".nrrd", ".nhdr"), ("LPS",)
        )
    ]
    variants += [
        ("<i2", "gzip", ".nrrd", space, turn, {})
        for space, turn in itertools.product(SPACES, TURNS)
    ]
    odd = (
        {"space units": ["um", "um", "um"]},
        {"space units": ["mm", "mm", "mm"]},
        {"kinds": ["domain", "domain", "time"]},
        {"kinds": ["list", "domain", "domain"]},
        {"kinds": ["domain", "domain", "domain"]},
        {"kinds": ["space", "space", "space"]},
        {"space origin": None},
        {"measurement frame": np.eye(3)},
    )
    variants += [("<i2", "raw", ".nrrd", "LPS", "oblique", fields) for fields in odd]
    for number, (kind, encoding, suffix, space, turn, fields) in enumerate(variants):
        place = folder / f"{number}"
        place.mkdir()
        lps, flips = affine(axes=TURNS[turn]), np.array(SPACES[space])
        header = {
            "space": space,
            "space directions": (lps[:3, :3] * flips[:, None]).T,
            "space origin": lps[:3, 3] * flips,
            "encoding": encoding,
            **fields,
        }
        header = {key: value for key, value in header.items() if value is not None}
        voxels, _, _ = stored(kind)
        path = place / f"a{suffix}"
        nrrd.write(str(path), voxels.T, header, index_order="F", compression_level=1)
        hu, found = nrrd.read(str(path))
        world = None
        if "space origin" in found and space != "scanner-xyz":
            world = np.eye(4)
            world[:3, :3], world[:3, 3] = found["space directions"].T, found["space origin"]
            world = np.diag([*flips, 1]) @ world
        name = f"{kind} {encoding} {suffix} {space} {turn} {fields}"
        compare(tally, name, place, hu.transpose(2, 1, 0), world)
    return tally


def simpleitk(folder: pathlib.Path) -> Tally:
    """Every type, format, compression and orientation that SimpleITK writes."""
    import SimpleITK as sitk

    tally = Tally("NIfTI, NRRD and MetaImage written and read by SimpleITK")
    types = ("i2", "i4", "i8", "f4", "f8")
    ends = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
    variants = [
        (kind, end, packed, "oblique") for kind in types for end in ends for packed in (0, 1)
    ]
    variants += [("i2", end, 0, turn) for end in ends for turn in TURNS]
    for number, (kind, end, packed, turn) in enumerate(variants):
        place = folder / f"{number}"
        place.mkdir()
        image = sitk.GetImageFromArray(chest().astype(kind))
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-30.0, -40.5, 120.25))
        image.SetDirection(TURNS[turn].ravel().tolist())
        path = place / f"a{end}"
        sitk.WriteImage(image, str(path), useCompression=bool(packed))
        found = sitk.ReadImage(str(path))
        axes = np.array(found.GetDirection()).reshape(3, 3) * found.GetSpacing()
        world = np.eye(4)
        world[:3, :3], world[:3, 3] = axes, found.GetOrigin()
        name = f"{kind} {end} {'packed' if packed else 'plain'} {turn}"
        compare(tally, name, place, sitk.GetArrayFromImage(found), world)
    return tally


def labels(folder: pathlib.Path) -> Tally:
    """Label volumes of every whole-number type beside a CT."""
    tally = Tally("labels of whole-number types")
    marks = np.zeros(chest().shape, np.int64)
    marks[2:4, 3:6, 2:5], marks[5, 8:10, 6:8] = 1, 2
    kinds = ("i1", "u1", "<i2", ">u2", "<i4", ">u4", "<i8", ">i8", "<u8", "<f4", ">f8")
    for number, (kind, end) in enumerate(itertools.product(kinds, (".nii.gz", ".nrrd", ".mha"))):
        place = folder / f"{number}"
        place.mkdir()
        for name, voxels in ((f"a{end}", chest()), (f"a_label{end}", marks.astype(kind))):
            _write(place / name, voxels)
        try:
            (source,) = _volumes.find(place)
            found = _volumes.read_lesions(source, _volumes.read(source)).labels
        except Unusable as error:
            tally.refuse(f"{kind} {end}", str(error))
            continue
        tally.agree(f"{kind} {end}", np.array_equal(found, marks))
    return tally


def _write(path: pathlib.Path, voxels: np.ndarray) -> None:
    """A volume by the library of its format; MetaImage has types of one byte order here."""
    if path.suffix == ".nrrd":
        directions = {"space": "LPS", "space directions": np.diag(SPACING[::-1])}
        nrrd.write(str(path), voxels.T, {**directions, "space origin": np.zeros(3)})
    elif path.suffix == ".mha":
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(voxels.astype(voxels.dtype.newbyteorder("=")))
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(path))
    else:
        write_nifti(path, voxels, affine(), (1, 1))


def sweep(folder: pathlib.Path) -> list[Tally]:
    """All of them."""
    logging.disable(logging.ERROR)  # of nibabel, which says what it corrects
    tallies = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pynrrd, where it writes
            for part in (nifti, nrrd_files, simpleitk, labels):
                place = folder / part.__name__
                place.mkdir()
                tallies.append(part(place))
    finally:
        logging.disable(logging.NOTSET)
    return tallies


def test_no_volume_is_read_otherwise(tmp_path):
    pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    tallies = sweep(tmp_path)
    for tally in tallies:
        assert tally.different == [], str(tally)
    assert [tally.agreed > 30 for tally in tallies] == [True] * 4
