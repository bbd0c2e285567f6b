"""DICOM frames as they are meant to be seen."""

import numpy as np
import pydicom
import pydicom.pixels
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from data_prep.readers import _dicom_image
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.data_prep.pictures import texture, write_dicom


def grey(path, frame=0, **decoding):
    image, notes = _dicom_image.read(path, Decoding(**decoding), frame)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert (image == image[..., :1]).all()
    return image[..., 0], notes


@pytest.fixture
def ct():
    """Stored values of a CT slice: HU + 1024, 12 bits."""
    return (texture(1).astype(np.uint16) * 12).clip(0, 4095)


CT = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "1", "RescaleIntercept": "-1024"}


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(tmp_path, ct, function):
    path = write_dicom(
        tmp_path / "a.dcm",
        ct,
        **CT,
        WindowCenter="40",
        WindowWidth="400",
        VOILUTFunction=function,
    )
    data = pydicom.dcmread(path)
    hu = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
    seen = pydicom.pixels.apply_voi_lut(hu, data)
    low, high = -1024.0, 4095.0 - 1024  # the output range of pydicom is that of the stored values
    expected = (seen - low) / (high - low) * 255
    found, notes = grey(path)
    assert np.abs(found - expected).max() <= 0.51
    assert notes == ()


def test_the_users_window_comes_first(tmp_path, ct):
    path = write_dicom(tmp_path / "a.dcm", ct, **CT, WindowCenter="40", WindowWidth="400")
    hu = ct.astype(float) - 1024
    expected = np.clip((hu - (-600 - 0.5)) / (1500 - 1) + 0.5, 0, 1) * 255
    found, _ = grey(path, window="-600,1500")
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_a_window_at_zero_and_the_first_of_several(tmp_path, ct):
    path = write_dicom(
        tmp_path / "a.dcm", ct, **CT, WindowCenter=["0", "40"], WindowWidth=["101", "400"]
    )
    hu = ct.astype(float) - 1024
    np.testing.assert_allclose(
        grey(path)[0], np.clip((hu + 0.5) / 100 + 0.5, 0, 1) * 255, atol=0.51
    )


def test_without_a_window_the_ends_of_the_image_or_of_its_bits(tmp_path, ct):
    path = write_dicom(tmp_path / "a.dcm", ct, **CT)
    low, high = float(ct.min()), float(ct.max())
    np.testing.assert_array_equal(grey(path)[0], np.rint((ct - low) / (high - low) * 255))
    np.testing.assert_array_equal(grey(path, levels="type")[0], np.rint(ct / 4095 * 255))


def test_a_window_that_is_none_is_named(tmp_path, ct):
    path = write_dicom(tmp_path / "a.dcm", ct, **CT, WindowCenter="40", WindowWidth="0")
    plain = write_dicom(tmp_path / "b.dcm", ct, **CT)
    found, notes = grey(path)
    np.testing.assert_array_equal(found, grey(plain)[0])
    assert notes == (_dicom_image.NO_WINDOW,)


def test_monochrome1_is_inverted_and_padding_is_black(tmp_path):
    stored = texture(1).astype(np.uint16) * 10
    stored[:5] = 65535
    kinds = {
        kind: write_dicom(
            tmp_path / f"{kind}.dcm",
            stored,
            PhotometricInterpretation=kind,
            PixelPaddingValue=65535,
        )
        for kind in ("MONOCHROME1", "MONOCHROME2")
    }
    inverted, plain = (grey(kinds[kind])[0] for kind in kinds)
    assert not inverted[:5].any() and not plain[:5].any()
    np.testing.assert_array_equal(inverted[5:], 255 - plain[5:])
    low, high = float(stored[5:].min()), float(stored[5:].max())
    np.testing.assert_array_equal(plain[5:], np.rint((stored[5:] - low) / (high - low) * 255))


def test_signed_values(tmp_path):
    stored = texture(1).astype(np.int16) - 100
    path = write_dicom(tmp_path / "a.dcm", stored, WindowCenter="0", WindowWidth="201")
    expected = np.clip((stored + 0.5) / 200 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(grey(path)[0], expected, atol=0.51)


def test_a_table_of_levels(tmp_path):
    stored = texture(1)
    table = np.linspace(0, 65535, 256).astype(np.uint16)[::-1]
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    path = write_dicom(tmp_path / "a.dcm", stored, VOILUTSequence=[item])
    np.testing.assert_array_equal(grey(path)[0], np.rint(table[stored] / 65535 * 255))


def test_palettes_are_colours(tmp_path):
    stored = texture(1) // 8
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 65536, (3, 32)).astype(np.uint16)
    elements = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [32, 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = write_dicom(
        tmp_path / "a.dcm", stored, PhotometricInterpretation="PALETTE COLOR", **elements
    )
    image, _ = _dicom_image.read(path, Decoding())
    expected = np.rint(tables.T[stored] / 65535 * 255)
    assert np.abs(image.astype(float) - expected).max() <= 1


def test_colours_stay(tmp_path):
    rgb = np.stack([texture(i) for i in (1, 2, 3)], axis=-1)
    image, _ = _dicom_image.read(write_dicom(tmp_path / "a.dcm", rgb), Decoding())
    np.testing.assert_array_equal(image, rgb)


def test_frames_have_levels_of_their_own(tmp_path):
    film = np.stack([texture(i).astype(np.uint16) for i in range(3)])
    groups = []
    for number in range(3):
        voi, frame = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = str(100 + 20 * number), "101"
        frame.FrameVOILUTSequence = [voi]
        groups.append(frame)
    shared, values = Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = "2", "-30"
    shared.PixelValueTransformationSequence = [values]
    path = write_dicom(
        tmp_path / "a.dcm",
        film,
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[shared],
    )
    assert _dicom_image.header(path).frames == 3
    for number in range(3):
        levels = film[number] * 2.0 - 30
        expected = np.clip((levels - (99.5 + 20 * number)) / 100 + 0.5, 0, 1) * 255
        np.testing.assert_allclose(grey(path, number)[0], expected, atol=0.51)
    with pytest.raises(Unusable, match="no frame 3"):
        grey(path, 3)


def test_what_cannot_be_decoded(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", texture(1))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 500])
    with pytest.raises(Unusable, match="damaged or cut off"):
        grey(path)
    path.write_bytes(whole[:300])
    with pytest.raises(Unusable):
        grey(path)
    with pytest.raises(Unusable, match="20000 x 20000"):
        grey(write_dicom(tmp_path / "b.dcm", texture(1), Rows=20000, Columns=20000))
    with pytest.raises(Unusable, match="1 x 1"):
        grey(write_dicom(tmp_path / "c.dcm", texture(1)[:1, :1]))
    report = write_dicom(tmp_path / "d.dcm", texture(1))
    data = pydicom.dcmread(report)
    del data.PixelData, data.Rows
    data.save_as(report)
    with pytest.raises(Unusable, match="no image"):
        grey(report)
    data = pydicom.dcmread(write_dicom(tmp_path / "e.dcm", texture(1)))
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "e.dcm")
    with pytest.raises(Unusable):
        grey(tmp_path / "e.dcm")


def test_the_subject_is_the_patient_or_else_the_exam(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", texture(1))
    assert _dicom_image.header(path) == _dicom_image.Header("Mustermann", 1)
    path = write_dicom(tmp_path / "a.dcm", texture(1), PatientID="", StudyInstanceUID="1.2.9")
    assert _dicom_image.header(path).subject == "1.2.9"
    assert _dicom_image.header(write_dicom(path, texture(1), PatientID="")).subject == ""
