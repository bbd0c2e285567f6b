"""CT volumes in NIfTI files (``.nii``, ``.nii.gz``, ``.hdr`` with ``.img``), labels beside them.

The affine is that of the sform, else of the qform; nothing is read where they contradict each
other. NIfTI's world is right-anterior-superior; here it becomes left-posterior-superior.
"""

import contextlib
import functools
import pathlib

import numpy as np

from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._grids import Grid
from data_prep.readers._images import Unusable

KIND = "ct"
LAYOUT = "NIfTI NAME.nii.gz, labels in labelsTr/ beside imagesTr/ or as NAME_label.nii.gz"
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")

UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # code of the unit of length -> mm
SAME_SIZE = 0.01  # relative difference of voxel sizes that is rounding
SAME_PLACE = 0.1  # voxels by which the corners of one volume may be apart


detect = functools.partial(_lesions.sources, __name__, SUFFIXES)
read = _volumes.read_file


def open_grid(path: pathlib.Path, root: pathlib.Path) -> Grid:
    """Header of a NIfTI file.

    Raises
    ------
    Unusable
        If it is damaged, or no volume of real numbers.
    """
    import nibabel

    with _grids.header(path, "NIfTI"):
        with path.open("rb") as file:
            packing = "gzip" if file.read(2) == b"\x1f\x8b" else "raw"
        block = next(_grids.stored_planes(path, (1, 1, 348), np.dtype("u1"), packing=packing))[0]
        kind = nibabel.Nifti1Header
        if block[:4].tobytes() in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big")):
            block = next(_grids.stored_planes(path, (1, 1, 540), np.dtype("u1"), packing=packing))
            kind = nibabel.Nifti2Header
        # The header alone: extensions, of whatever length, are not read.
        header = kind(block.tobytes(), check=False)
        if header["magic"].item()[:2] not in (b"n+", b"ni"):
            raise Unusable("it is an Analyze file, which does not say where the patient lies")
        return _grid(path, root, header, packing)


def beside(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path | None:
    """The file of voxels of a header that lies alone, else None.

    Raises
    ------
    Unusable
        If it is missing.
    """
    return _image_beside(path, root)[0] if ".hdr" in _volumes.volume_suffix(path) else None


def _grid(path: pathlib.Path, root: pathlib.Path, header, packing: str) -> Grid:
    shape = tuple(header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape = _grids.check_shape(shape[::-1])
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise Unusable("its voxels are no plain numbers")
    slope, intercept = header.get_slope_inter()
    if slope is None and np.isfinite(header["scl_inter"]) and header["scl_inter"] != 0:
        raise Unusable("its scl_slope is 0 or no number, but its scl_inter shifts the levels")
    scale = UNITS.get(int(header["xyzt_units"]) % 8)
    if scale is None:
        raise Unusable("its xyzt_units name no unit of length")
    affine, notes = _affine(header, shape)
    affine = np.diag([scale] * 3 + [1.0]) @ _grids.LPS @ affine
    start = max(0, int(header.get_data_offset()))
    if header["magic"].item()[:2] == b"ni":
        path, packing = _image_beside(path, root)
    else:  # writers often leave 0: the voxels are behind the header all the same
        start = max(start, header.single_vox_offset)
    packed = packing != "raw"
    return Grid(
        shape,
        affine,
        functools.partial(
            _grids.stored_planes,
            path,
            shape,
            dtype,
            start=0 if packed else start,
            packing=packing,
            skip=start if packed else 0,
        ),
        placed=bool(header["sform_code"] > 0 or header["qform_code"] > 0),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        notes=notes,
    )


def _affine(header, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxel index (x, y, z) to mm, right-anterior-superior, and notes.

    ``pixdim[0]`` of 0 means 1 (nifti1.h), unless a sform tells that it was -1. The voxel sizes
    beside it are lengths: their signs say nothing.
    """
    if not header["pixdim"][0]:
        is_left = header["sform_code"] > 0 and np.linalg.det(header.get_sform()[:3, :3]) < 0
        header["pixdim"][0] = -1 if is_left else 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    sizes = header["pixdim"][1:4].astype(np.float64)
    sized = bool(np.isfinite(sizes).all() and sizes.all())
    qform, given = None, bool(header["qform_code"] > 0)
    with contextlib.suppress(Exception):  # of many kinds: no rotation, or a wrong pixdim[0]
        qform = header.get_qform() if given and sized else None
    if qform is not None and not np.isfinite(qform).all():
        qform = None
    if header["sform_code"] <= 0:
        if not sized:
            raise Unusable("its pixdim gives no voxel size")
        if given and qform is None:
            raise Unusable("its qform gives no directions (quaternion, pixdim[0])")
        return (header.get_base_affine() if qform is None else qform), ()
    sform = header.get_sform()
    if sized and not np.allclose(np.linalg.norm(sform[:3, :3], axis=0), sizes, rtol=SAME_SIZE):
        other = "qform" if given else "pixdim"
        raise Unusable(
            f"its sform and its {other} give different voxel sizes: save it anew with one of them"
        )
    if qform is None:
        return sform, (("its qform makes no sense: the sform was taken",) if given else ())
    cosines = np.sum(sform[:3, :3] * qform[:3, :3], axis=0) / sizes**2
    if cosines.min() < np.sqrt(0.5):  # an axis exchanged or reversed
        raise Unusable(
            "its sform and its qform give different directions: save it anew with one of them"
        )
    corners = np.array([0, 0, 0, 1]), np.array([*shape[::-1], 1])
    apart = max(np.linalg.norm((sform - qform) @ corner) for corner in corners)
    if apart > SAME_PLACE * sizes.min():
        return sform, ("its sform and its qform differ: the sform was taken",)
    return sform, ()


def _image_beside(path: pathlib.Path, root: pathlib.Path) -> tuple[pathlib.Path, str]:
    stem = _lesions.stem(path)
    for name, packing in ((f"{stem}.img", "raw"), (f"{stem}.img.gz", "gzip")):
        image = path.with_name(name)
        if image.is_file() and _volumes.inside(image, root):
            return image, packing
    raise Unusable("the .img file beside it is missing")
