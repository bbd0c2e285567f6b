"""A small chest CT and its files, as scanners and converters write them."""

import tracemalloc

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (7, 12, 10)
SPACING = (2.5, 0.8, 0.7)  # z, y, x
ORIGIN = (-30.0, -40.5, 120.25)
AXIAL = (1, 0, 0, 0, 1, 0)


def chest(shape=SHAPE, seed=0):
    """HU of lung with a bright vessel; no two voxels in a row are alike."""
    hu = np.random.default_rng(seed).integers(-1000, -700, shape).astype(np.int16)
    hu[:, shape[1] // 3 : shape[1] // 2, shape[2] // 3 : shape[2] // 2] += 1100
    return hu


def affine(spacing=SPACING, origin=ORIGIN, axes=None):
    """(x, y, z) index to LPS mm; ``axes`` holds unit vectors x, y, z in its columns."""
    found = np.eye(4)
    found[:3, :3] = (np.eye(3) if axes is None else axes) * np.array(spacing)[::-1]
    found[:3, 3] = origin
    return found


def rotation(x, y, z):
    """Turn by angles in radians about the three axes, one after the other."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    return (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )


def image(stored, **tags):
    """Data set of one CT slice with these stored values, uint16 or int16 (Y, X)."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Modality = "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientID, data.PatientName = "HOSPITAL-4711", "Doe^Jane"
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    data.SeriesNumber, data.InstanceNumber = 5, 1
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.WindowCenter, data.WindowWidth = 40, 350
    data.ImageOrientationPatient = list(AXIAL)
    data.PixelSpacing = list(SPACING[1:])
    data.PixelData = stored.tobytes()
    change(data, **tags)
    return data


def change(data, **tags):
    """Set tags; None takes one away."""
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)


def series(folder, hu=None, orientation=AXIAL, heights=None, shear=(0, 0, 0), **tags):
    """Write a series, files named at random: paths in order along the normal.

    ``heights`` are the slices' positions along the normal in mm, ``shear`` what each slice is
    displaced from the last, ``tags`` apply to all slices.
    """
    hu = chest() if hu is None else hu
    folder.mkdir(parents=True, exist_ok=True)
    along, down = np.reshape(orientation, (2, 3)).astype(float)
    normal = np.cross(along, down)
    heights = np.arange(len(hu)) * SPACING[0] if heights is None else heights
    names = np.random.default_rng(len(hu)).permutation(len(hu))
    paths = []
    for number, (plane, height) in enumerate(zip(hu, heights, strict=True)):
        place = np.array(ORIGIN) + normal * height + np.array(shear) * number
        data = image(
            (plane + 1024).astype(np.uint16),
            ImagePositionPatient=[float(f"{value:.6f}") for value in place],
            InstanceNumber=int(names[number]) + 1,
        )
        data.ImageOrientationPatient = [float(value) for value in np.ravel(orientation)]
        change(data, **tags)
        paths.append(folder / f"IM{names[number]:04}")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def edit(path, **tags):
    """Rewrite a file with other tags; None takes one away."""
    import pydicom

    data = pydicom.dcmread(path)
    change(data, **tags)
    data.save_as(path, enforce_file_format=True)


def peak(action):
    """What ``action`` returns, and the most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        return action(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
