"""Small classified images: textures that do not repeat each other, and DICOM files."""

import pathlib

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from scipy import ndimage


def texture(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
    """Grey uint8 (height, width) with coarse and fine structure, other for every seed."""
    rng = np.random.default_rng(seed)
    size = height, width
    coarse = ndimage.gaussian_filter(rng.standard_normal(size), min(size) / 8)
    fine = ndimage.gaussian_filter(rng.standard_normal(size), min(size) / 40)
    mixed = coarse / coarse.std() + fine / fine.std()
    return np.clip(128 + 40 * mixed, 0, 255).astype(np.uint8)


def save(path: pathlib.Path, image: np.ndarray, **how) -> pathlib.Path:
    """Write an image where its folder may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **how)
    return path


def write_folders(root: pathlib.Path, count: int = 6, classes=("ill", "well")) -> pathlib.Path:
    """``CLASS/pN_iM.png``: so many images a class, two a person."""
    for place, name in enumerate(classes):
        for number in range(count):
            file = f"p{place}{number // 2}_i{number % 2}.png"
            save(root / name / file, texture(100 * place + number))
    return root


def write_dicom(path: pathlib.Path, stored: np.ndarray, **elements) -> pathlib.Path:
    """A secondary capture image of stored values (H, W), (N, H, W) or RGB (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4"
    rgb = stored.ndim == 3 and stored.shape[2] == 3
    data.Rows, data.Columns = stored.shape[-3:-1] if rgb else stored.shape[-2:]
    data.SamplesPerPixel = 3 if rgb else 1
    data.PhotometricInterpretation = "RGB" if rgb else "MONOCHROME2"
    if rgb:
        data.PlanarConfiguration = 0
    elif stored.ndim == 3:
        data.NumberOfFrames = len(stored)
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PatientID = "Mustermann"
    data.PixelData = np.ascontiguousarray(stored).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path
