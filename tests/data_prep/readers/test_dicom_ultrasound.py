import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import convert_color_space
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from data_prep.readers import _stills, dicom_ultrasound
from data_prep.readers._carotid import Options
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import SHAPE, interfaces, picture, table


def region(
    x0=0, y0=0, x1=SHAPE[1] - 1, y1=SHAPE[0] - 1, dx=0.006, dy=0.005, units=3, form=1, flags=0
):
    item = Dataset()
    item.RegionFlags = flags
    item.RegionSpatialFormat = form
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = dx, dy
    return item


def write(path, pixels=None, photometric="MONOCHROME2", regions=None, frames=1, bits=8, **tags):
    """A DICOM ultrasound file with explicit, little-endian, plain pixels."""
    pixels = picture() if pixels is None else pixels
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = UltrasoundImageStorage
    data.SOPInstanceUID = generate_uid()
    data.Modality = "US"
    data.PatientID = "HOSPITAL-4711"
    data.PatientName = "Doe^Jane"
    data.Rows, data.Columns = SHAPE
    data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    data.PhotometricInterpretation = photometric
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.BitsAllocated = 16 if pixels.dtype == np.uint16 else 8
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    data.PixelData = pixels.tobytes()
    if regions is None:
        regions = [region()]
    if regions:
        data.SequenceOfUltrasoundRegions = regions
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    path.with_suffix(".csv").write_text(table())


def read(root, options=None):
    (source,) = dicom_ultrasound.detect(root.resolve(), options)
    return dicom_ultrasound.read(source)


def test_a_study(tmp_path):
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "a.dcm")
    study = read(tmp_path)
    np.testing.assert_array_equal(study.image, picture())
    np.testing.assert_allclose(study.lumen_intima, interfaces()[0])
    assert study.mm_per_pixel == pytest.approx(0.05)
    assert study.mm_per_pixel_x == pytest.approx(0.06)
    assert (study.subject, study.case) == ("HOSPITAL-4711", "deeper/a.dcm")
    assert study.notes == ()


def test_file_without_a_suffix_beside_text_profiles(tmp_path):
    write(tmp_path / "IM0001")
    (tmp_path / "IM0001.csv").unlink()
    for name, points in zip(("LI", "MA"), interfaces(), strict=True):
        np.savetxt(tmp_path / f"IM0001-{name}.txt", points)
    np.testing.assert_allclose(read(tmp_path).media_adventitia, interfaces()[1])


def test_the_region_of_the_points_counts(tmp_path):
    elsewhere = region(x1=140, y1=30, dy=0.009)
    trace = region(form=3, dy=0.009)
    hertz = region(units=4, dy=0.009)
    whole_screen = region(dy=0.009)
    image = region(x0=5, y0=20, dy=-0.004)
    write(tmp_path / "a.dcm", regions=[elsewhere, trace, hertz, whole_screen, image])
    assert read(tmp_path).mm_per_pixel == pytest.approx(0.04)


def test_pixel_spacing_stands_in_and_is_rows_first(tmp_path):
    write(tmp_path / "a.dcm", regions=[region(units=0)], PixelSpacing=[0.07, 0.08])
    study = read(tmp_path)
    assert (study.mm_per_pixel, study.mm_per_pixel_x) == (0.07, 0.08)


@pytest.mark.parametrize("regions", [[], [region(units=0)], [region(x1=50)]])
def test_without_calibration_it_is_refused(tmp_path, regions):
    write(tmp_path / "a.dcm", regions=regions)
    with pytest.raises(Unusable, match="no calibration"):
        read(tmp_path)


LEFT, RIGHT = {"x1": 70}, {"x0": 71}


@pytest.mark.parametrize(
    ("regions", "box", "expected"),
    [
        # Two images side by side: each has its own sizes; nothing is measured across them.
        ([region(**LEFT), region(**RIGHT, dy=0.01, dx=0.02)], (10, 20, 60, 40), (0.05, 0.06)),
        ([region(**LEFT), region(**RIGHT, dy=0.01, dx=0.02)], (80, 20, 110, 40), (0.1, 0.2)),
        ([region(**LEFT), region(**RIGHT, dy=0.01)], (60, 20, 80, 40), "beyond one"),
        ([region(**LEFT)], (80, 20, 110, 40), "outside the calibrated"),
        ([region(**LEFT)], (60, 20, 80, 40), "beyond one"),
        # A spectrum, a graphic or a region without units inside an image owns its pixels.
        ([region(), region(form=3, **LEFT)], (10, 20, 60, 40), "without lengths"),
        ([region(), region(units=0, **LEFT)], (10, 20, 60, 40), "without lengths"),
        ([region(), region(dy=0.0, **LEFT)], (10, 20, 60, 40), "without lengths"),
        ([region(), region(dx=float("nan"), **LEFT)], (10, 20, 60, 40), "without lengths"),
        ([region(), region(form=3, **LEFT)], (80, 20, 110, 40), (0.05, 0.06)),
        # Where regions overlap, RegionFlags say whose the pixels are; else the smaller one's.
        ([region(dy=0.01), region(flags=1, **LEFT)], (10, 20, 60, 40), (0.1, 0.06)),
        ([region(dy=0.01, flags=1), region(flags=3)], (10, 20, 60, 40), "contradict"),
        ([region(dy=0.01), region(**LEFT)], (10, 20, 60, 40), (0.05, 0.06)),
        # Distances may be negative: a direction. A reference pixel moves no size.
        ([region(dy=-0.01, dx=-0.02)], (10, 20, 60, 40), (0.1, 0.2)),
        # Of regions whose corners are in disorder or absent nothing is known.
        ([region(x0=90, x1=20, dy=0.01), region()], (10, 20, 60, 40), (0.05, 0.06)),
    ],
)
def test_the_size_of_a_pixel_is_that_of_the_region_measured(regions, box, expected):
    data = Dataset()
    data.SequenceOfUltrasoundRegions = regions
    data.PixelSpacing = [0.3, 0.3]  # of the whole screen: never instead of a region's
    points = np.reshape(box, (2, 2))
    if isinstance(expected, str):
        with pytest.raises(Unusable, match=expected):
            dicom_ultrasound.calibration(data, points)
    else:
        assert dicom_ultrasound.calibration(data, points) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [[0, 0.1], [0.1, -0.1], [float("inf"), 0.1]])
def test_pixel_spacing_that_is_no_size(spacing):
    data = Dataset()
    data.PixelSpacing = spacing
    with pytest.raises(Unusable, match="PixelSpacing .* is no size"):
        dicom_ultrasound.calibration(data, np.zeros((1, 2)))


def test_a_file_without_preamble_and_levels_shown_through_a_window(tmp_path):
    write(
        tmp_path / "a.dcm", WindowCenter="100.5", WindowWidth="101", PresentationLUTShape="INVERSE"
    )
    expected = 255 - np.clip((picture() - 50.0) / 100, 0, 1) * 255
    np.testing.assert_allclose(read(tmp_path).image, expected, atol=0.51)
    content = (tmp_path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    (tmp_path / "a.dcm").write_bytes(content[start:])
    np.testing.assert_allclose(read(tmp_path).image, expected, atol=0.51)
    np.testing.assert_array_equal(_stills.read(tmp_path / "a.dcm").image, read(tmp_path).image)


def test_photometric_kinds(tmp_path):
    rgb = np.dstack([picture()] * 3)
    cases = {
        "RGB": rgb,
        "YBR_FULL": convert_color_space(rgb, "RGB", "YBR_FULL"),
        "MONOCHROME1": 255 - picture(),
    }
    for name, pixels in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder / "a.dcm", pixels, photometric=name)
        study = read(folder)
        difference = study.image.astype(int) - picture()
        assert np.abs(difference).max() <= (2 if name == "YBR_FULL" else 0), name
    assert "inverted" in read(tmp_path / "MONOCHROME1").notes[0]


def test_twelve_bits(tmp_path):
    write(tmp_path / "a.dcm", picture().astype(np.uint16) * 16, bits=12)
    study = read(tmp_path)
    np.testing.assert_array_equal(study.image, picture())
    assert study.notes == ("levels of 12 bits scaled to 8",)


def test_frames(tmp_path):
    frames = np.stack([picture(seed) for seed in range(3)])
    write(tmp_path / "a.dcm", frames, frames=3)
    first, last = read(tmp_path), read(tmp_path, Options(frame=2))
    np.testing.assert_array_equal(first.image, frames[0])
    np.testing.assert_array_equal(last.image, frames[2])
    assert last.notes == ("frame 2 of 3 used",)
    with pytest.raises(Unusable, match="no frame 3"):
        read(tmp_path, Options(frame=3))


def test_patient_or_exam_or_refusal(tmp_path):
    write(tmp_path / "a.dcm", PatientID="", StudyInstanceUID="1.2.3")
    study = read(tmp_path)
    assert study.subject == "1.2.3"
    assert study.notes == ("no patient identifier: the exam counts as the subject",)
    write(tmp_path / "a.dcm", PatientID="")
    with pytest.raises(Unusable, match="neither patient nor exam"):
        read(tmp_path)


def test_what_cannot_be_used(tmp_path):
    write(tmp_path / "a.dcm", Modality="CT")
    with pytest.raises(Unusable, match="not an ultrasound"):
        read(tmp_path)
    write(tmp_path / "a.dcm", PixelData=b"\0\0")
    with pytest.raises(Unusable, match="damaged or cut off"):
        read(tmp_path)
    write(tmp_path / "a.dcm", Rows=60_000, Columns=60_000)
    with pytest.raises(Unusable, match="more than 50 million"):
        read(tmp_path)
    write(tmp_path / "a.dcm")
    (tmp_path / "a.csv").unlink()
    with pytest.raises(Unusable, match="the lumen-intima file is missing"):
        read(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    with pytest.raises(Unusable):
        read(tmp_path)


def test_damaged_header_names_nobody(tmp_path):
    write(tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unusable) as raised:
        read(tmp_path)
    assert "Doe" not in str(raised.value) and "4711" not in str(raised.value)


def test_other_files_are_not_claimed_and_links_out_are_named(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "README").write_text("nothing")
    assert dicom_ultrasound.detect(root.resolve()) == []
    (root / "short.dcm").write_bytes(b"DICM")
    (source,) = dicom_ultrasound.detect(root.resolve())
    assert source.problem == "the DICOM file is not an ultrasound image"
    (root / "short.dcm").unlink()
    write(tmp_path / "outside.dcm")
    (root / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    with pytest.raises(Unusable, match="outside the input folder"):
        read(root)


def test_palette(tmp_path):
    levels = (np.arange(256)[::-1] * 257).astype("<u2")
    table_of = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", levels.tobytes()))
    }
    write(tmp_path / "a.dcm", photometric="PALETTE COLOR", **table_of)
    np.testing.assert_array_equal(read(tmp_path).image, 255 - picture())
    assert pydicom.dcmread(tmp_path / "a.dcm").PhotometricInterpretation == "PALETTE COLOR"


def test_a_tag_with_more_values_than_it_may_have(tmp_path):
    write(tmp_path / "a.dcm", Rows=[SHAPE[0], 3])
    with pytest.raises(Unusable, match="damaged"):
        read(tmp_path)
