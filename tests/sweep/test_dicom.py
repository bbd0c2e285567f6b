"""DICOM pixels of every kind against pydicom's own functions, and against what was stored.

One decoder serves all apps: images for classification, ultrasound images, CT series.
"""

import io
import itertools
import pathlib
import warnings
from collections.abc import Iterable

import imagecodecs
import numpy as np
import pydicom
import pydicom.pixels
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from data_prep.readers import _dicom_image, _images, _volumes, dicom_ultrasound
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.data_prep.readers.synthetic_ct import chest, series
from tests.sweep.tally import Tally

SHAPE = (24, 32)
PLAIN = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "headless": uid.ImplicitVRLittleEndian,
}
PACKED = {
    "run lengths": uid.RLELossless,
    "JPEG lossless": uid.JPEGLossless,
    "JPEG lossless SV1": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}
if hasattr(imagecodecs, "htj2k_encode"):  # since 2026
    PACKED["HTJ2K"] = uid.HTJ2KLossless


def picture(bits: int, signed: bool = False, colours: bool = False) -> np.ndarray:
    """Smooth values that use all bits, int64 (H, W) or (H, W, 3)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    found = ((np.sin(x / 5) + np.cos(y / 4) + 2) / 4 * ((1 << bits) - 1)).astype(np.int64)
    found[0, 0], found[0, 1] = 0, (1 << bits) - 1
    if colours:
        found = np.stack([found, found[::-1], np.roll(found, 9, axis=1)], axis=-1)
    return found - (1 << bits - 1) * signed


def data_set(values: np.ndarray, bits: int, allocated: int, signed: bool, how: str, **tags):
    """A data set of one frame of values, stored in a transfer syntax."""
    syntax = {**PLAIN, **PACKED}[how]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3.4"
    data.Modality, data.PatientID = "US", "P"
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = 1 if values.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = allocated, bits, bits - 1
    data.PixelRepresentation = int(signed)
    for name, value in tags.items():
        setattr(data, name, value)
    order = ">" if how == "big-endian" else "<"
    if allocated == 1:
        content = np.packbits(values.ravel().astype(np.uint8), bitorder="little").tobytes()
    else:
        kind = f"{order}{'i' if signed else 'u'}{allocated // 8}"
        planar = values.ndim == 3 and data.PlanarConfiguration and how not in PACKED
        content = (np.moveaxis(values, 2, 0) if planar else values).astype(kind).tobytes()
    colours = data.PhotometricInterpretation
    if how in PACKED:
        frame = content if syntax == uid.RLELossless else _pack(values, bits, how, colours)
        data.PixelData = encapsulate([frame])
        if syntax == uid.RLELossless:
            data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
            data.PixelData = content
            data.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    else:
        data.PixelData = content + b"\0" * (len(content) % 2)
        data["PixelData"].VR = "OB" if allocated <= 8 and how != "implicit" else "OW"
    return data


def _pack(values: np.ndarray, bits: int, how: str, colours: str = "RGB") -> bytes:
    """One frame, by imagecodecs; JPEG knows no sign: the bits stored alone are kept."""
    stored = (values & ((1 << bits) - 1)).astype("u1" if bits <= 8 else "u2")
    if how.startswith("JPEG lossless"):
        space = {"colorspace": "RGB", "outcolorspace": "RGB"} if values.ndim == 3 else {}
        predictor = 1 if how.endswith("SV1") else 6
        frame = imagecodecs.jpeg8_encode(
            stored, lossless=True, predictor=predictor, bitspersample=bits, **space
        )
        if values.ndim == 3 and colours != "RGB":  # components without names
            for old, new in (
                (b"Adobe", b"Other"),
                (b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0"),
                (b"\x03R\0G\0B\0", b"\x03\1\0\2\0\3\0"),
            ):
                assert frame.count(old) == 1
                frame = frame.replace(old, new)
        return frame
    if how == "JPEG-LS":
        return imagecodecs.jpegls_encode(stored)
    if how == "HTJ2K":
        return imagecodecs.htj2k_encode(stored, reversible=True)
    return imagecodecs.jpeg2k_encode(
        stored, level=0, reversible=True, codecformat="j2k", bitspersample=bits, mct=False
    )


def save(data: Dataset, path: pathlib.Path, how: str) -> pathlib.Path:
    """Write a data set; "headless": its elements alone, as old archives keep them."""
    if how == "headless":
        meta = data.file_meta
        del data.file_meta
        data.save_as(path, implicit_vr=True, little_endian=True)
        data.file_meta = meta
    else:
        data.save_as(path, enforce_file_format=True)
    return path


def table(entries, first: int, bits: int, how: str, words: bool = True) -> Dataset:
    """An item of a sequence of look-up tables."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    kind = f"{'>' if how == 'big-endian' else '<'}u2" if words else "u1"
    item.add_new("LUTData", "OW", np.asarray(entries).astype(kind).tobytes())
    return item


def compare(
    tally: Tally, name: str, path: pathlib.Path, expected: np.ndarray, within: float = 0.51
) -> None:
    """Count what both apps make of a file; ``expected``: levels from 0 to 255."""
    expected = np.asarray(expected, np.float64)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    try:
        image, _ = _dicom_image.read(path, Decoding())
    except Unusable as error:
        tally.refuse(name, str(error))
        return
    apart = np.abs(image - expected).max() if image.shape == expected.shape else image.shape
    if np.all(apart <= within):
        grey, _ = dicom_ultrasound.grey(pydicom.dcmread(path, force=True), 0)
        same = np.array_equal(grey, _images.to_grey(image)[0])
        tally.agree(name, same, "cimt and classify differ")
    else:
        tally.agree(name, False, f"by {apart}")


def by_pydicom(path: pathlib.Path, data: Dataset, values: np.ndarray) -> np.ndarray:
    """Grey levels of stored values by pydicom's functions, 0 to 255.

    Where there is neither window nor table, those of the ends: the image's own of more than 8 bits.
    """
    meta, data = data.file_meta, pydicom.dcmread(path, force=True)
    data.file_meta = meta  # headless files have none
    seen = pydicom.pixels.apply_modality_lut(values, data)
    bits = int(data.BitsStored)
    low, high = seen.min(), seen.max()
    if "VOILUTSequence" in data:
        descriptor = data.VOILUTSequence[0].LUTDescriptor
        if descriptor[1] >= 1 << 15:  # of implicit type, and negative behind a rescale
            descriptor[1] -= 1 << 16
        seen = pydicom.pixels.apply_voi(seen.astype(np.int64), data)
        low, high = 0, (1 << data.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif "WindowCenter" in data:
        seen = pydicom.pixels.apply_windowing(seen, data)
        ends = np.array([0, (1 << bits) - 1]) - int(data.PixelRepresentation) * (1 << bits - 1)
        low, high = ends * float(data.get("RescaleSlope", 1))
        low, high = (each + float(data.get("RescaleIntercept", 0)) for each in (low, high))
        if "ModalityLUTSequence" in data:
            low, high = 0, (1 << data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    elif bits <= 8:
        low, high = np.array([0, (1 << bits) - 1]) - int(data.PixelRepresentation) * (1 << bits - 1)
    levels = np.clip((seen - low) / (high - low), 0, 1) * 255
    turned = data.PhotometricInterpretation == "MONOCHROME1"
    return 255 - levels if turned or data.get("PresentationLUTShape") == "INVERSE" else levels


def grey(folder: pathlib.Path, plain: Iterable[str]) -> Tally:
    """Depth x sign x transfer syntax; polarity x what turns values into levels."""
    tally = Tally("grey DICOM against pydicom")
    depths = [(1, 1), (5, 8), (7, 8), (8, 8), (8, 16), (10, 16), (12, 16), (15, 16), (16, 16)]
    depths += [(12, 32), (24, 32), (32, 32)]
    number = 0
    for (bits, allocated), signed, how in itertools.product(
        depths, (False, True), (*plain, *PACKED)
    ):
        packed = how in PACKED and (allocated not in (8, 16) or (bits, how) == (8, "run lengths"))
        if (allocated == 1 and signed) or (packed and allocated != 8):  # no encoder writes it
            continue
        values = picture(bits, signed)
        data = data_set(values, bits, allocated, signed, how)
        path = save(data, folder / f"{number}.dcm", how)
        number += 1
        name = f"{bits} of {allocated} bits{' signed' * signed} {how}"
        compare(tally, name, path, by_pydicom(path, data, values))
    for how, signed, polarity, (kind, tags) in itertools.product(
        plain, (False, True), ("MONOCHROME1", "MONOCHROME2", "INVERSE"), _level_tags().items()
    ):
        values = picture(12, signed)
        data = data_set(values, 12, 16, signed, how, **tags(how, signed))
        if polarity == "INVERSE":
            data.PresentationLUTShape = polarity
        else:
            data.PhotometricInterpretation = polarity
        path = save(data, folder / f"{number}.dcm", how)
        number += 1
        compare(
            tally, f"{kind}{' signed' * signed} {polarity} {how}", path,
            by_pydicom(path, data, values), 1.01 if "SIGMOID" in kind else 0.51,
        )  # fmt: skip
    return tally


def _level_tags() -> dict:
    """Name -> function that gives the tags, by transfer syntax and sign."""

    def windows(centre, width, function=None, **more):
        tags = {"WindowCenter": centre, "WindowWidth": width, **more}
        return lambda how, signed: {**tags, **({"VOILUTFunction": function} if function else {})}

    def curve(top, count):
        return np.rint(np.linspace(0, 1, count) ** 2 * top)

    rescale = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    return {
        "LINEAR": windows("600", "1500", "LINEAR"),
        "no function": windows("600", "1500"),
        "LINEAR_EXACT": windows("600", "1500", "LINEAR_EXACT"),
        "SIGMOID": windows("600", "1500", "SIGMOID"),
        "width 1": windows("600", "1"),
        "width 2": windows("600.5", "2"),
        "half a width, LINEAR_EXACT": windows("600", "0.5", "LINEAR_EXACT"),
        "two windows": windows(["600", "40"], ["1500", "400"]),
        "rescaled": windows("600", "1500", **rescale),
        "rescaled, falling": windows("600", "1500", RescaleSlope="-1", RescaleIntercept="4095"),
        "rescaled, no window": lambda how, signed: rescale,
        "rescaled, fractional": windows("60", "150", RescaleSlope="0.1", RescaleIntercept="-7.5"),
        "table of 16 bits": lambda how, signed: {
            "VOILUTSequence": [table(curve(65535, 4096), -2048 * signed, 16, how)]
        },
        "table of 12 bits": lambda how, signed: {
            "VOILUTSequence": [table(curve(4095, 4096), -2048 * signed, 12, how)]
        },
        "short table": lambda how, signed: {
            "VOILUTSequence": [table(curve(1023, 500), 300, 10, how)]
        },
        "two tables": lambda how, signed: {
            "VOILUTSequence": [
                table(curve(1023, 500), 300, 10, how), table(curve(255, 300), 0, 8, how)
            ]
        },
        "65,536 entries": lambda how, signed: {
            "VOILUTSequence": [table(curve(65535, 65536), -2048 * signed, 16, how)]
        },
        "table behind a rescale": lambda how, signed: {
            "RescaleSlope": "1",
            "RescaleIntercept": "-1024",
            "VOILUTSequence": [table(curve(65535, 2000), -1000, 16, how)],
        },
        "modality table": lambda how, signed: {
            "ModalityLUTSequence": [table(curve(65535, 4096), -2048 * signed, 16, how)],
            "WindowCenter": "20000",
            "WindowWidth": "30000",
        },
    }  # fmt: skip


def colours(folder: pathlib.Path, plain: Iterable[str]) -> Tally:
    """Depth x planes x transfer syntax; colour spaces; palettes."""
    tally = Tally("coloured DICOM against what was stored and pydicom")
    number = itertools.count()

    def file(data, how):
        return save(data, folder / f"c{next(number)}.dcm", how)

    for bits, planar, how in itertools.product((7, 8, 10, 12, 16), (0, 1), (*plain, *PACKED)):
        allocated = 8 if bits <= 8 else 16
        values = picture(bits, colours=True)
        data = data_set(values, bits, allocated, False, how, PlanarConfiguration=planar)
        compare(
            tally, f"RGB {bits} bits, planes {planar} {how}", file(data, how),
            values / ((1 << bits) - 1) * 255,
        )  # fmt: skip
    for space, planar, how in itertools.product(("YBR_FULL", "YBR_FULL_422"), (0, 1), plain):
        rgb = picture(8, colours=True).astype(np.uint8)
        rgb[:, 1::2] = rgb[:, ::2]
        ybr = pydicom.pixels.convert_color_space(rgb, "RGB", "YBR_FULL")
        if space == "YBR_FULL_422" and planar:
            continue
        data = data_set(
            ybr.astype(np.int64), 8, 8, False, how,
            PhotometricInterpretation=space, PlanarConfiguration=planar,
        )  # fmt: skip
        if space == "YBR_FULL_422":
            pairs = ybr.reshape(-1, 2, 3)
            packed = np.concatenate([pairs[..., 0], pairs[:, 0, 1:]], axis=1)
            data.PixelData = packed.tobytes()
            data["PixelData"].VR = "OB" if how != "implicit" else "OW"
        compare(tally, f"{space} planes {planar} {how}", file(data, how), rgb, 3)
    for how in PACKED:
        rgb = picture(8, colours=True).astype(np.uint8)
        ybr = pydicom.pixels.convert_color_space(rgb, "RGB", "YBR_FULL").astype(np.int64)
        data = data_set(ybr, 8, 8, False, how, PhotometricInterpretation="YBR_FULL")
        compare(tally, f"YBR_FULL {how}", file(data, how), rgb, 3)
    for bits, mct in itertools.product((8, 12, 16), (True, False)):
        values = picture(bits, colours=True)
        data = data_set(values, bits, 8 if bits == 8 else 16, False, "JPEG 2000")
        frame = imagecodecs.jpeg2k_encode(
            values.astype("u1" if bits == 8 else "u2"), level=0, reversible=True, mct=mct,
            codecformat="j2k", bitspersample=bits,
        )  # fmt: skip
        data.PixelData = encapsulate([frame])
        data["PixelData"].is_undefined_length = True
        data.PhotometricInterpretation = "YBR_RCT" if mct else "RGB"
        compare(
            tally, f"JPEG 2000 {bits} bits, transformed {mct}", file(data, "JPEG 2000"),
            values / ((1 << bits) - 1) * 255,
        )  # fmt: skip
    _baseline(tally, file)
    _palettes(tally, file, plain)
    return tally


def _baseline(tally: Tally, file) -> None:
    """JPEG of 8 bits: the colours that header and stream say."""
    rgb = picture(8, colours=True).astype(np.uint8)
    for said, space, subsampling in itertools.product(
        ("YBR_FULL_422", "YBR_FULL", "RGB"), ("YCBCR", "RGB"), ("444", "422", "420")
    ):
        if space == "RGB" and subsampling != "444":
            continue
        data = data_set(rgb.astype(np.int64), 8, 8, False, "JPEG 2000")
        data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        frame = imagecodecs.jpeg8_encode(
            rgb, level=98, colorspace="RGB", outcolorspace=space, subsampling=subsampling
        )
        data.PixelData = encapsulate([frame])
        data["PixelData"].is_undefined_length = True
        data.PhotometricInterpretation = said
        expected = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"))
        name = f"JPEG {space} {subsampling}, header {said}"
        compare(tally, name, file(data, "JPEG 2000"), expected, 3)


def _palettes(tally: Tally, file, plain: Iterable[str]) -> None:
    rng = np.random.default_rng(0)
    for depth, pixels, first, how, segmented in itertools.product(
        (8, 16), (8, 16), (0, 20), plain, (False, True)
    ):
        values = picture(8)
        data = data_set(values, 8, pixels, False, how)
        data.PhotometricInterpretation = "PALETTE COLOR"
        tables = rng.integers(0, 1 << depth, (3, 200))
        order = ">" if how == "big-endian" else "<"
        for name, entries in zip(("Red", "Green", "Blue"), tables, strict=True):
            keyword = f"{name}PaletteColorLookupTable"
            setattr(data, f"{keyword}Descriptor", [200, first, depth])
            kind = f"{order}u2" if depth == 16 else "u1"
            if segmented:
                entries[100:] = np.linspace(entries[99], entries[0], 101)[1:].astype(int)
                parts = [[0, 100], entries[:100], [1, 100, entries[0]]]
                content = np.concatenate(parts).astype(kind).tobytes()
                keyword = f"Segmented{keyword}"
            else:
                content = entries.astype(kind).tobytes()
            if depth == 8 and how == "big-endian":  # two entries a word
                content = np.frombuffer(content + b"\0" * (len(content) % 2), "u2").byteswap()
                content = content.tobytes()
            setattr(data, f"{keyword}Data", content + b"\0" * (len(content) % 2))
        colours = tables.T[np.clip(values - first, 0, 199)]
        name = f"palette of {depth} bits, {pixels}-bit pixels from {first} {how}"
        compare(
            tally, f"{name}{' segmented' * segmented}", file(data, how),
            colours / ((1 << depth) - 1) * 255, 1.01 if not segmented else 3,
        )  # fmt: skip


def ct(folder: pathlib.Path, plain: Iterable[str]) -> Tally:
    """Hounsfield units of series: sign x bits x transfer syntax."""
    tally = Tally("DICOM CT series against what was stored")
    hu = chest((3, *SHAPE))
    cases = itertools.product((12, 16), (False, True), (*plain, *PACKED), ((1, -1024), (2, -1000)))
    for number, (bits, signed, how, (slope, intercept)) in enumerate(cases):
        place = folder / f"{number}"
        stored = (hu.astype(np.int64) - intercept) // slope
        if signed:
            stored, intercept = hu.astype(np.int64) // slope, 0
        for path, plane in zip(series(place, hu), stored, strict=True):
            data = pydicom.dcmread(path)
            pixels = data_set(plane, bits, 16, signed, how)
            for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
                setattr(data, keyword, getattr(pixels, keyword))
            data.RescaleSlope, data.RescaleIntercept = slope, intercept
            fresh = Dataset()
            for element in data:
                if element.keyword != "PixelData":
                    fresh.add_new(element.tag, element.VR, element.value)
            fresh.file_meta = data.file_meta
            fresh.file_meta.TransferSyntaxUID = pixels.file_meta.TransferSyntaxUID
            fresh["PixelData"] = pixels["PixelData"]
            path.unlink()
            save(fresh, path.with_suffix(".dcm"), how)
        name = f"{bits} bits{' signed' * signed} {how} {slope}"
        try:
            (source,) = _volumes.find(place)
            volume = _volumes.read(source)
        except Unusable as error:
            tally.refuse(name, str(error))
            continue
        tally.agree(name, np.array_equal(volume.hu, stored * slope + intercept))
    return tally


def sweep(folder: pathlib.Path, plain: Iterable[str] = tuple(PLAIN)) -> list[Tally]:
    """All of them, in these transfer syntaxes without compression."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom, of what it corrects
        found = []
        for part in (grey, colours, ct):
            place = folder / part.__name__
            place.mkdir()
            found.append(part(place, plain))
    return found


def test_no_dicom_image_is_read_otherwise(tmp_path):
    tallies = sweep(tmp_path, ("implicit", "big-endian"))
    for tally in tallies:
        assert tally.different == [], str(tally)
    assert [tally.agreed > 40 for tally in tallies] == [True] * 3
