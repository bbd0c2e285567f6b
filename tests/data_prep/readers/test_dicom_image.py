"""DICOM frames as they are meant to be seen."""

import pathlib

import imagecodecs
import numpy as np
import pydicom
import pydicom.pixels
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
    UID_dictionary,
)

from data_prep.readers import _dicom_codecs, _dicom_image, _dicom_pixels, _slices
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.data_prep.pictures import texture, write_dicom

PLAIN_SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian),
    *(ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
)


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


def test_eight_bits_stay_as_they_are(tmp_path):
    dark = texture(1) // 3
    for levels in ("image", "type"):
        found, notes = grey(write_dicom(tmp_path / "a.dcm", dark), levels=levels)
        np.testing.assert_array_equal(found, dark)
        assert notes == ()


def lut(entries, first, bits, kind="<u2", vr="OW"):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    entries = np.asarray(entries)
    item.add_new("LUTData", vr, entries.astype(kind).tobytes() if vr == "OW" else entries.tolist())
    return item


@pytest.mark.parametrize(
    ("item", "top"),
    [
        (lut(np.arange(4096), 0, 16), 4095),  # as Agfa writes it: the size of an entry
        (lut(np.arange(4096), 0, 16, vr="US"), 4095),
        (lut(np.arange(4096) // 4, 0, 16), 1023),
        (lut(np.arange(4096) * 8, 0, 16), 32767),
        (lut(np.arange(4096) // 2, 0, 16), 2047),
        (lut(np.arange(4096) // 2, 0, 12), 4095),  # dim, not of 11 bits
        (lut(np.arange(4096), 0, 10), 4095),
        (lut(np.arange(4096), 0, 12), 4095),
        (lut(np.arange(4096) * 16, 0, 16), 65535),
        (lut(np.arange(4096) // 16, 0, 8), 255),
        (lut(np.arange(4096) // 16, 0, 8, "u1"), 255),  # two entries a word
        (lut(np.arange(65536) // 16, 0, 12), 4095),
    ],
)
def test_depth_of_a_table_is_that_of_its_entries(tmp_path, item, top):
    stored = np.linspace(0, 4095, 48 * 48).reshape(48, 48).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, VOILUTSequence=[item])
    data = np.atleast_1d(item.LUTData if item["LUTData"].VR == "US" else 0)
    if item["LUTData"].VR == "OW":
        words = len(item.LUTData) >= 2 * (item.LUTDescriptor[0] or 65536)
        data = np.frombuffer(item.LUTData, "<u2" if words else "u1")
    found, notes = grey(path)
    np.testing.assert_allclose(found, data[stored] / top * 255, atol=0.51)
    assert bool(notes) == ((1 << item.LUTDescriptor[2]) - 1 != top)


def test_a_table_begins_below_zero(tmp_path, ct):
    table = lut(np.linspace(0, 4095, 1200), -900, 12)
    path = write_dicom(tmp_path / "a.dcm", ct, **CT, VOILUTSequence=[table])
    data = np.frombuffer(table.LUTData, "<u2")
    hu = ct.astype(int) - 1024
    expected = data[np.clip(hu + 900, 0, 1199)] / 4095 * 255
    np.testing.assert_allclose(grey(path)[0], expected, atol=0.51)
    item = pydicom.dcmread(path)
    del item.VOILUTSequence[0].LUTDescriptor
    item.VOILUTSequence[0].add_new("LUTDescriptor", "US", [1200, 65536 - 900, 12])  # the same
    item.save_as(path)
    np.testing.assert_allclose(grey(path)[0], expected, atol=0.51)
    item.VOILUTSequence[0].LUTDescriptor = [4000, 0, 12]
    item.save_as(path)
    with pytest.raises(Unusable, match="fewer entries"):
        grey(path)


@pytest.mark.parametrize(
    ("bits", "top", "note"),
    [(12, 4095, ""), (16, 4095, "of 12 bits"), (16, 65535, ""), (10, 1023, "")],
)
def test_colours_have_the_depth_of_their_bits(tmp_path, bits, top, note):
    ramp = np.linspace(0, top, 48 * 48).reshape(48, 48).astype(np.uint16)
    rgb = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    path = write_dicom(tmp_path / "a.dcm", rgb, BitsStored=bits, HighBit=bits - 1)
    image, notes = _dicom_image.read(path, Decoding())
    np.testing.assert_allclose(image, rgb / top * 255, atol=0.51)
    assert note in " ".join(notes) and bool(notes) == bool(note)


def test_bits_above_those_stored(tmp_path, ct):
    bits = {"BitsStored": 12, "HighBit": 11}
    plain = grey(write_dicom(tmp_path / "a.dcm", ct, **bits))[0]
    overlay = (np.indices(ct.shape).sum(axis=0) % 2).astype(np.uint16) << 12
    path = write_dicom(tmp_path / "b.dcm", ct | overlay, **bits)
    with pytest.raises(Unusable, match="BitsStored"):
        grey(path)
    data = pydicom.dcmread(path)
    data.add_new((0x6000, 0x0100), "US", 16)
    data.add_new((0x6000, 0x0102), "US", 12)
    data.save_as(path)
    np.testing.assert_array_equal(grey(path)[0], plain)
    high = write_dicom(tmp_path / "c.dcm", ct << 4, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(grey(high)[0], plain)
    with pytest.raises(Unusable, match="HighBit"):
        grey(write_dicom(tmp_path / "d.dcm", ct, BitsStored=12, HighBit=15))
    with pytest.raises(Unusable, match="HighBit"):
        grey(write_dicom(tmp_path / "e.dcm", ct, BitsStored=16, HighBit=11))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT"),
        ({"PhotometricInterpretation": "CMYK"}, "CMYK"),
        ({"PhotometricInterpretation": "MONOCHROME2"}, "MONOCHROME2, is not read with .* 3"),
        ({"PhotometricInterpretation": "MUSTERMANN"}, "unknown"),
        ({"PixelRepresentation": 1}, "signed"),
        ({"NumberOfFrames": 2}, "damaged or cut off"),
    ],
)
def test_colours_that_contradict_their_header(tmp_path, tags, said):
    rgb = np.stack([texture(i) for i in (1, 2, 3)], axis=-1)
    with pytest.raises(Unusable, match=said):
        _dicom_image.read(write_dicom(tmp_path / "a.dcm", rgb, **tags), Decoding(), 0)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PixelPresentation": "COLOR"}, "PixelPresentation"),
        ({"PresentationLUTSequence": [Dataset()]}, "PresentationLUTSequence"),
        ({"WindowCenter": "9", "WindowWidth": "9", "VOILUTFunction": "LOG"}, "VOILUTFunction"),
        ({"NumberOfFrames": 1}, "of 2 frames"),
        ({"NumberOfFrames": 3}, "damaged"),
        ({"PerFrameFunctionalGroupsSequence": [Dataset()]}, "describes 1"),
        ({"PerFrameFunctionalGroupsSequence": [Dataset()] * 3}, "describes 3"),
        ({"BitsStored": 17}, "BitsStored"),
        ({"BitsAllocated": 12, "BitsStored": 12}, "BitsAllocated"),
    ],
)
def test_grey_frames_that_contradict_their_header(tmp_path, tags, said):
    film = np.stack([texture(i).astype(np.uint16) for i in range(2)])
    with pytest.raises(Unusable, match=said):
        grey(write_dicom(tmp_path / "a.dcm", film, **tags))


@pytest.mark.parametrize("name", ["BitsStored", "PixelRepresentation", "PhotometricInterpretation"])
def test_what_is_missing_is_named(tmp_path, name):
    path = write_dicom(tmp_path / "a.dcm", texture(1))
    data = pydicom.dcmread(path)
    delattr(data, name)
    data.save_as(path)
    with pytest.raises(Unusable, match=f"{name} .* is missing"):
        grey(path)
    del data.PixelData
    data.FloatPixelData = texture(1).astype("<f4").tobytes()
    data.save_as(path)
    with pytest.raises(Unusable, match="floating-point"):
        grey(path)


def compressed(path, syntax, frames, stored, **tags):
    write_dicom(path, stored, **tags)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = pydicom.encaps.encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def test_every_transfer_syntax_without_a_decoder_is_named(tmp_path):
    known = [uid for uid, what in UID_dictionary.items() if what[1] == "Transfer Syntax"]
    decoded = [*PLAIN_SYNTAXES, RLELossless, *_dicom_codecs.DECODER_DEPENDENCIES]
    others = [uid for uid in known if uid not in decoded] + ["1.2.826.0.1.3680043.2.1143"]
    assert len(others) > 40
    for syntax in others:
        path = compressed(tmp_path / "a.dcm", syntax, [b"\0\0\0\1"], texture(1))
        with pytest.raises(Unusable) as error:
            grey(path)
        said = str(error.value)
        assert "damaged" not in said and "save it" in said
        assert UID(syntax).name.partition(",")[0] in said or "private" in said
        assert ("private" in said) == (not syntax.startswith("1.2.840.10008."))
    newer = UID("1.2.840.10008.1.2.4.1999")  # of the standard, unknown to pydicom
    with pytest.raises(Unusable, match=f"compression, {newer}: save it"):
        _dicom_pixels._plugin(newer)


def test_twelve_bits_of_lossy_jpeg(tmp_path, ct):
    frame = imagecodecs.jpeg8_encode(ct, bitspersample=12, level=99)
    bits = {"BitsStored": 12, "HighBit": 11}
    path = compressed(tmp_path / "a.dcm", JPEGExtended12Bit, [frame], ct, **bits)
    low, high = float(ct.min()), float(ct.max())
    np.testing.assert_allclose(grey(path)[0], (ct - low) / (high - low) * 255, atol=2)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_frames_that_do_not_fit(tmp_path, syntax):
    encode = {
        JPEGLossless: lambda image: imagecodecs.jpeg8_encode(image, lossless=True),
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEG2000Lossless: lambda image: imagecodecs.jpeg2k_encode(
            image, level=0, reversible=True, codecformat="j2k"
        ),
    }[syntax]
    image = texture(1)
    frame = encode(image)
    for filling in (b"", b"\0\0", b"\xff"):
        path = compressed(tmp_path / "a.dcm", syntax, [frame + filling], image)
        np.testing.assert_array_equal(grey(path)[0], image)
    for frames, said in (
        ([frame, frame], "of 2 frames"),
        ([encode(image[:-8])], "cannot be decoded"),
        ([frame[: len(frame) // 2]], "damaged or cut off"),
    ):
        with pytest.raises(Unusable, match=said):
            grey(compressed(tmp_path / "a.dcm", syntax, frames, image))


@pytest.mark.parametrize("fragments", [1, 3])
def test_frames_of_a_compressed_film(tmp_path, fragments):
    film = np.stack([texture(i) for i in range(3)])
    frames = [imagecodecs.jpegls_encode(image) for image in film]
    if fragments == 1:  # as JP2 files, which some writers put there
        frames = [imagecodecs.jpeg2k_encode(image, level=0, codecformat="jp2") for image in film]
    path = write_dicom(tmp_path / "a.dcm", film)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLSLossless if fragments > 1 else JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=fragments)
    data["PixelData"].is_undefined_length = True
    data.save_as(path)
    for number, image in enumerate(film):
        np.testing.assert_array_equal(grey(path, number)[0], image)


def test_adobes_marker_says_the_colours(tmp_path):
    rgb = np.stack([texture(i) for i in (1, 2, 3)], axis=-1)
    frame = imagecodecs.jpeg8_encode(rgb, level=99, colorspace="RGB", outcolorspace="RGB")
    assert b"Adobe" in frame
    for said in ("RGB", "YBR_FULL_422"):
        path = compressed(
            tmp_path / "a.dcm", JPEGBaseline8Bit, [frame], rgb, PhotometricInterpretation=said
        )
        image, _ = _dicom_image.read(path, Decoding())
        assert np.abs(image.astype(int) - rgb).max() < 12


def test_files_of_pydicom_are_read_as_pydicom_reads_them():
    """Every image among those that pydicom brings along, made by many devices and programs."""
    same, refused = 0, []
    for path in sorted((pathlib.Path(pydicom.__file__).parent / "data").rglob("*.dcm")):
        with _slices.quiet():
            data = pydicom.dcmread(path, force=True)
            try:
                expected = pydicom.pixels.pixel_array(data, index=0)
            except Exception:  # not an image, damaged, or of a compression that pydicom knows not
                continue
            try:
                _dicom_pixels.check(data)
                found, _ = _dicom_pixels.stored_values(data, 0)
            except Unusable as error:
                refused.append((path.name, str(error)))
                continue
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
        same += 1
    assert same > 60
    assert all("NumberOfFrames" in said for _, said in refused), refused
