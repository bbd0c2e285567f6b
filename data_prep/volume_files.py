"""Volumes written as NIfTI and NRRD files, with the same bytes for the same content."""

import gzip
import pathlib
import struct

import nibabel
import numpy as np


def write_nifti(path: pathlib.Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as ``.nii.gz`` with the same bytes for the same content.

    Parameters
    ----------
    path : pathlib.Path
    voxels : numpy.ndarray
        (Z, Y, X), uint8 or int16.
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient LPS mm.
    """
    image = nibabel.Nifti1Image(voxels.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_xyzt_units("mm")
    path.write_bytes(_pack(image.to_bytes()))


def write_nrrd(path: pathlib.Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as ``.nrrd``; parameters as :func:`write_nifti`."""
    kinds = {"u1": "uint8", "i2": "int16"}
    kind = f"{voxels.dtype.kind}{voxels.dtype.itemsize}"

    def vector(values: np.ndarray) -> str:
        return "(" + ",".join(repr(float(value)) for value in values) + ")"

    lines = (
        "NRRD0004",
        f"type: {kinds[kind]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, voxels.shape[::-1])),
        "space directions: " + " ".join(vector(axis) for axis in affine[:3, :3].T),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        "space origin: " + vector(affine[:3, 3]),
    )
    stored = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
    path.write_bytes(("\n".join(lines) + "\n\n").encode("ascii") + _pack(stored))


def _pack(content: bytes) -> bytes:
    """Compressed; no time of writing, and the byte that names the system is set to "unknown"."""
    packed = bytearray(gzip.compress(content, 6, mtime=0))
    struct.pack_into("B", packed, 9, 255)
    return bytes(packed)
