"""CT volumes in NIfTI files (``.nii``, ``.nii.gz``, ``.hdr`` with ``.img``), labels beside them.

The affine is that of the sform, else of the qform. NIfTI's world is right-anterior-superior; here
it becomes left-posterior-superior.
"""

import functools
import pathlib

import numpy as np

from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._grids import Grid
from data_prep.readers._images import Unusable

KIND = "ct"
LAYOUT = "NIfTI NAME.nii.gz, labels in labelsTr/ beside imagesTr/ or as NAME_label.nii.gz"
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")

UNITS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}  # to mm


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
    scale = UNITS[header.get_xyzt_units()[0]]
    affine = np.diag([scale] * 3 + [1.0]) @ _grids.LPS @ _affine(header)
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
    )


def _affine(header) -> np.ndarray:
    if header["sform_code"] <= 0 or header["qform_code"] <= 0:
        return header.get_best_affine()
    sform, qform = header.get_sform(), header.get_qform()
    sizes = [np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
    if not np.allclose(*sizes, rtol=0.01):
        raise Unusable("its sform and its qform give different voxel sizes")
    return sform


def _image_beside(path: pathlib.Path, root: pathlib.Path) -> tuple[pathlib.Path, str]:
    stem = _lesions.stem(path)
    for name, packing in ((f"{stem}.img", "raw"), (f"{stem}.img.gz", "gzip")):
        image = path.with_name(name)
        if image.is_file() and _volumes.inside(image, root):
            return image, packing
    raise Unusable("the .img file beside it is missing")
