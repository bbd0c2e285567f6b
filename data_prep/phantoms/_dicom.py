"""CT series as DICOM files, with the same bytes for the same content.

Names, numbers and dates of persons are made up, and are where scanners put them, so that what
must not leave a raw folder can be looked for in what was made of it.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

IMPLEMENTATION = "2.25.193728530118364920184637291048573920"
# Long enough that none turns up in compressed bytes by chance.
FAMILIES = ("Auerland", "Bexleigh", "Corvanne", "Dunmoore", "Elstropp", "Farrowby", "Gantwick")
GIVEN = ("Alvarine", "Bramwell", "Cleophia", "Doranius", "Eddalina", "Fennoril", "Gretabel")


@dataclasses.dataclass(frozen=True)
class Person:
    """A made-up person and exam, as a hospital would write them down."""

    family: str
    given: str
    number: str
    birth: str
    sex: str
    accession: str
    date: str
    study_uid: str
    series_uid: str
    frame_uid: str

    @property
    def folder(self) -> str:
        """Name of the series' folder, which identifies the person too."""
        return f"{self.family.upper()}_{self.given.upper()}_{self.number}"

    def identifiers(self) -> tuple[str, ...]:
        """All texts that say who this is; none may be found in anything made of the series."""
        names = (self.family, self.given, self.folder, f"{self.family}^{self.given}")
        uids = (self.study_uid, self.series_uid, self.frame_uid)
        return (*names, self.number, self.birth, self.accession, self.date, *uids)


@dataclasses.dataclass(frozen=True)
class Scanner:
    """How a scanner stores Hounsfield units, and what it calls itself.

    Attributes
    ----------
    maker, model, kernel : str
    signed : bool
        Whether stored values have a sign.
    slope, intercept : float
        HU = slope * stored + intercept.
    kvp : int
    """

    maker: str
    model: str
    kernel: str
    signed: bool
    slope: float
    intercept: float
    kvp: int


SCANNERS = (
    Scanner("Phantom Works", "Meridian 64", "B30f", False, 1.0, -1024.0, 100),
    Scanner("Example Imaging", "Orbit 128", "STANDARD", True, 1.0, 0.0, 120),
    Scanner("Invented Medical", "Halo", "FC08", False, 0.5, -1024.0, 120),
    Scanner("Phantom Works", "Meridian XL", "Bv40", False, 1.0, -8192.0, 100),
)


def draw_person(seed: int, number: int) -> Person:
    """The made-up person of a patient's number."""
    rng = np.random.default_rng([seed, number, 77])

    def digits(count: int) -> str:
        return "".join(map(str, rng.integers(0, 10, count)))

    def date(first: int, last: int) -> str:
        year, month, day = (rng.integers(*ends) for ends in ((first, last), (1, 13), (1, 29)))
        return f"{year}{month:02d}{day:02d}"

    sex = "FM"[int(rng.integers(2))]
    return Person(
        FAMILIES[int(rng.integers(len(FAMILIES)))],
        GIVEN[int(rng.integers(len(GIVEN)))],
        f"{number + 11:02d}{digits(6)}",
        date(1931, 1999),
        sex,
        f"ACC{digits(8)}",
        date(2015, 2024),
        *(uid(seed, number, kind) for kind in ("study", "series", "frame")),
    )


def uid(*parts: object) -> str:
    """A DICOM unique identifier (PS3.5, B.2) that depends on its parts alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def write_series(
    folder: pathlib.Path,
    hu: np.ndarray,
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    person: Person,
    scanner: Scanner,
    rng: np.random.Generator,
) -> None:
    """Write a volume as a CT series, one file a slice, under names that say nothing.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    hu : numpy.ndarray
        int16 (Z, Y, X): columns run to the patient's left, rows to the back, slices to the head.
    spacing : tuple of float
        mm, z, y, x.
    origin : tuple of float
        Patient LPS mm of the first voxel: x, y, z.
    person : Person
    scanner : Scanner
    rng : numpy.random.Generator
        Draws the names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<i2" if scanner.signed else "<u2")
    names = rng.permutation(len(hu))
    for index, plane in enumerate(hu):
        instance = uid(person.series_uid, index)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, instance
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION, "PHANTOM"
        path = folder / f"I{names[index] * 37 + 1000:07d}"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        data.SpecificCharacterSet = "ISO_IR 100"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, instance
        _describe(data, person, scanner)
        data.InstanceNumber = len(hu) - index  # counted from the head, as most scanners do
        data.SliceThickness = f"{spacing[0]:g}"
        # A decimal string has 16 characters at most (PS3.5, 6.2).
        place = (origin[0], origin[1], origin[2] + index * spacing[0])
        data.ImagePositionPatient = [f"{value:.6f}" for value in place]
        data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        data.SliceLocation = f"{place[2]:.6f}"
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = plane.shape
        data.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[2]:.6f}"]
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, int(scanner.signed)
        data.WindowCenter, data.WindowWidth = "100", "700"
        data.RescaleIntercept, data.RescaleSlope = f"{scanner.intercept:g}", f"{scanner.slope:g}"
        data.RescaleType = "HU"
        stored = np.rint((plane.astype(np.float64) - scanner.intercept) / scanner.slope)
        data.PixelData = stored.astype(dtype).tobytes()
        data.save_as(path, enforce_file_format=True)


def _describe(data: FileDataset, person: Person, scanner: Scanner) -> None:
    """Set what says who, when, where and with what."""
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = person.date
    data.StudyTime = data.SeriesTime = "101500"
    data.AccessionNumber, data.Modality = person.accession, "CT"
    data.Manufacturer, data.ManufacturerModelName = scanner.maker, scanner.model
    data.InstitutionName = "Made-up Hospital"
    data.ReferringPhysicianName = "Nobody^Norbert"
    data.StudyDescription = f"CTPA {person.family}"
    data.SeriesDescription = f"Pulmonary arteries {scanner.kernel}"
    data.PatientName, data.PatientID = f"{person.family}^{person.given}", person.number
    data.PatientBirthDate, data.PatientSex = person.birth, person.sex
    data.ContrastBolusAgent = "made-up agent"
    data.KVP, data.ConvolutionKernel = f"{scanner.kvp}", scanner.kernel
    data.PatientPosition = "FFS"
    data.StudyInstanceUID, data.SeriesInstanceUID = person.study_uid, person.series_uid
    data.StudyID, data.SeriesNumber = person.accession[-4:], 4
    data.FrameOfReferenceUID = person.frame_uid
