import os
import shutil
import zlib

import numpy as np
import pydicom
import pytest
from absl import logging
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from data_prep import runner
from data_prep.errors import UserError
from data_prep.readers import _deflated, _volumes, of_kind
from data_prep.readers._images import Unusable
from data_prep.readers._volumes import Options
from tests.data_prep.readers import test_nifti
from tests.data_prep.readers.synthetic_ct import (
    AXIAL,
    ORIGIN,
    SHAPE,
    SPACING,
    affine,
    change,
    chest,
    edit,
    image,
    peak,
    rotation,
    series,
)


def read(root, options=None):
    (source,) = _volumes.find(root, options)
    return _volumes.read(source)


def by_hand(folder):
    """The real series: HU and z, sorted by z, with nothing but pydicom's plainest calls."""
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()),
        key=lambda data: float(data.ImagePositionPatient[2]),
    )
    hu = [data.pixel_array * data.RescaleSlope + data.RescaleIntercept for data in slices]
    return np.array(hu), slices


@pytest.fixture
def real_series(real_data, tmp_path):
    """The real series under names that say nothing, in two folders."""
    original = real_data / "ct" / "lung_pet_ct_dx_dicom" / "A0002_B40f"
    paths = sorted(original.iterdir())
    for number, place in enumerate(np.random.default_rng(3).permutation(len(paths))):
        folder = tmp_path / "raw" / f"part{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[place], folder / f"x{number:02}")
    return tmp_path / "raw", original


def test_real_series_is_that_of_pydicom_sorted_by_hand(real_series):
    raw, original = real_series
    volume = read(raw)
    hu, slices = by_hand(original)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.hu.dtype == np.int16
    np.testing.assert_allclose(volume.spacing, (8, *slices[0].PixelSpacing))
    corner = volume.affine @ [3, 5, 2, 1]
    expected = np.array(slices[2].ImagePositionPatient, float)
    expected[:2] += np.array([3, 5]) * slices[0].PixelSpacing[0]
    np.testing.assert_allclose(corner[:3], expected)
    assert volume.facts == {"slice_thickness_mm": 8.0, "kvp": 120.0}
    assert volume.notes == ()


def test_real_series_is_that_of_simpleitk(real_series):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    raw, original = real_series
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(original))
    peer = sitk.ReadImage(names)
    volume = read(raw)
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(peer))
    np.testing.assert_allclose(volume.spacing[::-1], peer.GetSpacing())
    for index in ((0, 0, 0), (100, 7, 3), (511, 511, 19)):
        place = volume.affine @ [*index, 1]
        np.testing.assert_allclose(place[:3], peer.TransformIndexToPhysicalPoint(index), atol=1e-6)


def test_real_series_with_a_slice_taken_away_is_refused(real_series):
    raw, _ = real_series
    for path in raw.rglob("x*"):
        if float(pydicom.dcmread(path).ImagePositionPatient[2]) == 256:
            path.unlink()
    with pytest.raises(Unusable, match="1 slice is missing .*gap of 16 mm at z = 248 to 264 mm"):
        read(raw)


def test_order_geometry_and_subject(tmp_path):
    series(tmp_path / "study")
    (source,) = _volumes.find(tmp_path)
    assert (source.name, source.subject) == ("study series 5", "HOSPITAL-4711")
    assert len(source.files) == SHAPE[0] and source.kind == "dicom_ct"
    volume = _volumes.read(source)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.spacing, SPACING)
    np.testing.assert_allclose(volume.affine, affine())
    assert _volumes.read_lesions(source, volume) is None


@pytest.mark.parametrize("angles", [(0.4, -0.3, 1.0), (np.pi / 2, 0, 0), (np.pi, 0, 0)])
def test_oblique_sagittal_and_upside_down(tmp_path, angles):
    axes = rotation(*angles)
    series(tmp_path / "study", orientation=np.round(axes[:, :2].T, 9))
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.affine, affine(axes=axes), atol=1e-5)
    points = np.random.default_rng(0).uniform(-50, 50, (5, 3))
    np.testing.assert_allclose(volume.to_patient(volume.to_voxels(points)), points, atol=1e-9)
    np.testing.assert_allclose(
        volume.to_patient([[3, 2, 1]])[0], (volume.affine @ [1, 2, 3, 1])[:3]
    )


def test_nothing_of_a_person_in_the_volume(tmp_path):
    series(tmp_path / "study", KVP=120, ContrastBolusAgent="given to Jane Doe")
    volume = read(tmp_path)
    assert volume.facts == {"kvp": 120.0, "contrast": True}
    text = repr((volume.facts, volume.notes))
    assert "4711" not in text and "Doe" not in text and "study" not in text


def test_a_missing_slice_is_named(tmp_path):
    paths = series(tmp_path / "study")
    paths[3].unlink()
    with pytest.raises(Unusable) as error:
        read(tmp_path)
    low = ORIGIN[2] + 2 * SPACING[0]
    text = str(error.value)
    assert f"a gap of 5 mm at z = {low:g} to {low + 5:g} mm" in text
    assert f"between {paths[2].name} and {paths[4].name}" in text


def test_reasons_reach_the_dataset_without_file_names(tmp_path):
    paths = series(tmp_path / "study")
    paths[3].unlink()
    sources = _volumes.find(tmp_path)
    work = tmp_path / "work"
    _, (skipped,) = runner.run(_volumes.read, sources, work, extras={}, tokens=["a"])
    assert paths[2].name in skipped.detail
    assert paths[2].name not in skipped.reason and "gap of 5 mm" in skipped.reason


def test_uneven_distances(tmp_path):
    series(tmp_path / "mixed", heights=[0, 1, 2, 3, 8, 13, 18])
    with pytest.raises(Unusable, match="distance of its slices is not even"):
        read(tmp_path)


def test_positions_rounded_to_a_tenth_are_even(tmp_path):
    heights = np.round(np.arange(7) * 0.625, 1)
    series(tmp_path / "rounded", heights=heights)
    assert read(tmp_path).spacing[0] == pytest.approx(heights[-1] / 6)


def test_creeping_distances(tmp_path):
    series(tmp_path / "creeping", chest((9, 12, 10)), heights=np.arange(9) ** 1.08 * 2.5)
    with pytest.raises(Unusable, match="off its place"):
        read(tmp_path)


def test_identical_slices_are_dropped_and_others_refused(tmp_path):
    paths = series(tmp_path / "study")
    shutil.copy(paths[2], tmp_path / "study" / "copy")
    edit(tmp_path / "study" / "copy", SOPInstanceUID=generate_uid())
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, chest())
    assert volume.notes == ("1 slices that repeat another were dropped",)
    other = (chest(seed=1)[2] + 1024).astype(np.uint16)
    edit(tmp_path / "study" / "copy", PixelData=other.tobytes())
    with pytest.raises(Unusable, match=f"{paths[2].name} and copy|copy and {paths[2].name}"):
        read(tmp_path)


def test_a_series_over_time_and_a_single_slice(tmp_path):
    series(tmp_path / "bolus", heights=[0] * SHAPE[0])
    with pytest.raises(Unusable, match="a series over time"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "bolus")
    series(tmp_path / "one", chest()[:1])
    with pytest.raises(Unusable, match="a single slice"):
        read(tmp_path)


def test_gantry_tilt_and_slices_moved_sideways(tmp_path):
    series(tmp_path / "tilt", shear=(0, 2.5 * np.tan(np.radians(12)), 0))
    with pytest.raises(Unusable, match=r"12\.0 degrees askew \(gantry tilt\)"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "tilt")
    paths = series(tmp_path / "moved")
    edit(paths[4], ImagePositionPatient=[ORIGIN[0] + 9, ORIGIN[1], ORIGIN[2] + 10])
    with pytest.raises(Unusable, match=f"{paths[4].name} is displaced sideways by 9.0 mm"):
        read(tmp_path)


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelSpacing": [0.9, 0.9]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
        {"Rows": 10, "Columns": 12},
    ],
)
def test_mixed_stacks(tmp_path, tags):
    paths = series(tmp_path / "study")
    edit(paths[5], **tags)
    with pytest.raises(Unusable, match=r"\(00.*several stacks in one series"):
        read(tmp_path)


@pytest.mark.parametrize(
    "tag",
    [
        "RescaleSlope",
        "RescaleIntercept",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
    ],
)
def test_missing_tags_are_named_with_the_file(tmp_path, tag):
    paths = series(tmp_path / "study")
    edit(paths[1], **{tag: None})
    with pytest.raises(Unusable, match=rf"{paths[1].name}: {tag} \(00\d\d,\d+\) is missing"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"RescaleType": "OD"}, "another unit than HU"),
        ({"RescaleSlope": 0}, "not positive"),
        ({"PixelSpacing": [0, 0.7]}, "not positive"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no directions at right angles"),
        ({"RescaleIntercept": 0}, "not Hounsfield units"),
        ({"RescaleSlope": 100}, "not Hounsfield units"),
    ],
)
def test_tags_that_make_no_sense(tmp_path, tags, said):
    series(tmp_path / "study", **tags)
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


def test_two_series_in_one_folder_are_two_sources(tmp_path):
    paths = series(tmp_path / "study")
    for path in paths:
        path.rename(path.with_name(f"a{path.name}"))
    series(tmp_path / "study", chest(seed=1), SeriesInstanceUID="1.2.3.5", SeriesNumber=6)
    one, two = _volumes.find(tmp_path)
    assert (one.name, two.name) == ("study series 5", "study series 6")
    np.testing.assert_array_equal(_volumes.read(one).hu, chest())
    np.testing.assert_array_equal(_volumes.read(two).hu, chest(seed=1))


def test_one_series_identifier_for_two_patients(tmp_path):
    series(tmp_path / "a")
    series(tmp_path / "b", chest(seed=1), PatientID="OTHER", StudyInstanceUID="1.2.9")
    one, two = _volumes.find(tmp_path)
    assert (one.subject, two.subject) == ("HOSPITAL-4711", "OTHER")


def test_what_is_no_volume_is_left_out_and_named(tmp_path, caplog):
    series(tmp_path / "ct")
    scout = image(np.zeros((12, 10), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.save_as(tmp_path / "ct" / "scout", enforce_file_format=True)  # in the same series
    for number, (name, tags) in enumerate(
        {
            "mr": {"Modality": "MR", "SOPClassUID": MRImageStorage},
            "reformat": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
            "screen": {"SOPClassUID": SecondaryCaptureImageStorage},
        }.items()
    ):
        series(tmp_path / name, SeriesInstanceUID=f"1.2.{number}", **tags)
    (tmp_path / "mr" / "damaged").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10")
    (tmp_path / "mr" / "damaged.dcm").write_bytes(b"\xff" * 50)
    (tmp_path / "readme.txt").write_text("not DICOM")
    with caplog.at_level("INFO", logger="absl"):
        (source,) = _volumes.find(tmp_path)
    assert source.name == "ct series 5"
    np.testing.assert_array_equal(_volumes.read(source).hu, chest())
    assert "Left out: ct series 5 (1.2.3.4): a localiser" in caplog.text
    assert "Left out: mr series 5: not a CT: Modality (0008,0060) is MR" in caplog.text
    assert "Left out: reformat series 5: its ImageType (0008,0008) says DERIVED" in caplog.text
    assert "Left out: screen series 5: no CT image but made of one" in caplog.text
    assert "readme" not in caplog.text
    names = {source.name for source in _volumes.find(tmp_path, Options(derived=True))}
    assert names == {"ct series 5", "reformat series 5"}


def test_labels_of_a_series_are_not_called_left_out(tmp_path, caplog):
    series(tmp_path / "a")
    test_nifti.write(tmp_path / "a_label.nii.gz", np.zeros(SHAPE, np.uint8))
    test_nifti.write(tmp_path / "b_label.nii.gz", np.zeros(SHAPE, np.uint8))  # of nothing
    with caplog.at_level("INFO", logger="absl"):
        (source,) = _volumes.find(tmp_path)
    assert [path.name for path in source.paths("labels")] == ["a_label.nii.gz"]
    assert "a_label" not in caplog.text and "b_label.nii.gz: a label volume" in caplog.text


def test_nothing_found(tmp_path):
    with pytest.raises(UserError, match="holds no CT volume. Looked for: DICOM"):
        _volumes.find(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        _volumes.find(tmp_path / "absent")
    series(tmp_path / "mr", Modality="MR")
    with pytest.raises(UserError, match="mr series 5: not a CT"):
        _volumes.find(tmp_path)


def test_subject_falls_back_to_the_exam(tmp_path):
    series(tmp_path / "study", PatientID="")
    (source,) = _volumes.find(tmp_path)
    assert source.subject == "1.2.3"
    assert "exam counts as the subject" in _volumes.read(source).notes[0]
    series(tmp_path / "study", PatientID=None, StudyInstanceUID=None)
    with pytest.raises(Unusable, match="neither PatientID"):
        read(tmp_path)


def test_signed_values(tmp_path):
    hu = chest()
    paths = series(tmp_path / "study", PixelRepresentation=1, RescaleIntercept=0)
    for path, plane in zip(paths, hu, strict=True):
        edit(path, PixelData=plane.astype(np.int16).tobytes())
    np.testing.assert_array_equal(read(tmp_path).hu, hu)


@pytest.mark.parametrize("compressed", [False, True])
def test_twelve_signed_bits_without_extended_sign(tmp_path, compressed):
    hu = chest()
    paths = series(tmp_path / "study", RescaleIntercept=0)
    for path, plane in zip(paths, hu, strict=True):
        edit(path, PixelData=(plane.astype(np.int16) & 0x0FFF).tobytes())
        if compressed:
            data = pydicom.dcmread(path)
            data.compress(RLELossless)
            data.save_as(path, enforce_file_format=True)
        edit(path, PixelRepresentation=1, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(tmp_path).hu, hu)


@pytest.mark.parametrize("signed", [False, True])
def test_padding_of_sixteen_bits_around_an_image_of_twelve(tmp_path, signed):
    hu = chest()
    kind = np.int16 if signed else np.uint16
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    for path, plane in zip(series(tmp_path / "study", **bits), hu, strict=True):
        stored = (plane + 1024).astype(kind)
        stored[:2] = np.array(-2000, np.int16).view(kind)
        edit(path, PixelData=stored.tobytes())
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", "US", 63536)  # -2000 written as unsigned
        data.save_as(path)
    volume = read(tmp_path)
    assert (volume.hu[:, :2] == -1024).all()
    np.testing.assert_array_equal(volume.hu[:, 2:], hu[:, 2:])
    assert volume.notes == ("padding (PixelPaddingValue) set to -1024 HU",)


def test_padding_range(tmp_path):
    hu = chest()
    for path, plane in zip(series(tmp_path / "study"), hu, strict=True):
        stored = (plane + 1024).astype(np.uint16)
        stored[0], stored[1] = 5000, 5010
        edit(path, PixelData=stored.tobytes())
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", "US", 5010)
        data.add_new("PixelPaddingRangeLimit", "US", 5000)
        data.save_as(path)
    volume = read(tmp_path)
    assert (volume.hu[:, :2] == -1024).all()
    np.testing.assert_array_equal(volume.hu[:, 2:], hu[:, 2:])


def test_display_settings_do_not_touch_hounsfield_units(tmp_path):
    series(tmp_path / "study", PhotometricInterpretation="MONOCHROME1", WindowWidth=1)
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


def test_of_deflated_elements_only_the_first_are_unpacked_to_find_a_series(tmp_path, monkeypatch):
    for path in series(tmp_path / "study"):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    np.testing.assert_array_equal(read(tmp_path).hu, chest())
    seen = []
    parse = pydicom.filereader.read_partial

    def counted(file, *args, **options):
        seen.append(len(zlib.decompress(file.getvalue()[start:], -zlib.MAX_WBITS)))
        return parse(file, *args, **options)

    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # Empty patients' names without end, of which a kilobyte is a megabyte.
    names = bytes.fromhex("1000 1000 504e 0000") * (8 << 17)
    path.write_bytes(content[:start] + packer.compress(names) + packer.flush())
    monkeypatch.setattr(pydicom.filereader, "read_partial", counted)
    monkeypatch.setattr(_deflated, "HEAD", 1 << 16)
    (source,) = _volumes.find(tmp_path)
    assert len(source.files) == SHAPE[0] - 1
    assert max(seen) == 1 << 16


def test_fractional_and_changing_rescale(tmp_path):
    paths = series(tmp_path / "study", RescaleSlope="0.5", RescaleIntercept="-1024.4")
    hu = np.rint((chest() + 1024) * 0.5 - 1024.4)
    edit(paths[2], RescaleSlope=1, RescaleIntercept=-1024)
    hu[2] = chest()[2]
    np.testing.assert_array_equal(read(tmp_path).hu, np.maximum(hu, -1024))


def test_transfer_syntaxes(tmp_path):
    paths = series(tmp_path / "study")
    data = pydicom.dcmread(paths[0])
    data.compress(RLELossless)
    data.save_as(paths[0], enforce_file_format=True)
    data = pydicom.dcmread(paths[1])
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(paths[1], enforce_file_format=True)
    data = fresh(paths[2])
    data.file_meta = pydicom.dcmread(paths[2]).file_meta
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    data.save_as(paths[2], enforce_file_format=True)
    # Without preamble and file meta, as old archives keep them.
    for path, implicit in ((paths[3], True), (paths[4], False)):
        data = fresh(path)
        path.unlink()
        data.save_as(path.with_suffix(".dcm"), implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


def fresh(path):
    """The elements of a file, free of how they were encoded."""
    data = Dataset()
    for element in pydicom.dcmread(path):
        data.add_new(element.tag, element.VR, element.value)
    return data


def test_compression_without_a_decoder_is_named(tmp_path):
    paths = series(tmp_path / "study")
    data = pydicom.dcmread(paths[0])
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.106"
    data.save_as(paths[0], enforce_file_format=True)
    with pytest.raises(Unusable, match=f"^{paths[0].name}: it is a film, MPEG-4 .* MP4"):
        read(tmp_path)


def enhanced(path, hu, order, shared=True, **tags):
    """One enhanced multi-frame file, its frames in this order."""
    data = image((hu[order] + 1024).astype(np.uint16), **tags)
    data.SOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames = len(order)
    change(data, RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    change(data, ImageOrientationPatient=None, PixelSpacing=None)
    common = Dataset()
    frames = []
    for index in order:
        frame = Dataset()
        place, level, measures, plane = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + SPACING[0] * int(index)]
        level.RescaleSlope, level.RescaleIntercept, level.RescaleType = 1, -1024, "HU"
        measures.PixelSpacing, measures.SliceThickness = list(SPACING[1:]), 3
        plane.ImageOrientationPatient = list(AXIAL)
        frame.PlanePositionSequence = [place]
        holder = common if shared else frame
        holder.PixelValueTransformationSequence = [level]
        holder.PixelMeasuresSequence = [measures]
        holder.PlaneOrientationSequence = [plane]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = [common]
    data.PerFrameFunctionalGroupsSequence = frames
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_multi_frame(tmp_path, shared):
    order = np.random.default_rng(1).permutation(SHAPE[0])
    enhanced(tmp_path / "e.dcm", chest(), order, shared)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.affine, affine())
    assert volume.facts["slice_thickness_mm"] == 3


def test_enhanced_multi_frame_in_two_files_or_with_a_gap(tmp_path):
    enhanced(tmp_path / "a.dcm", chest(), [6, 4, 5])
    enhanced(tmp_path / "b.dcm", chest(), [0, 3, 1, 2])
    np.testing.assert_array_equal(read(tmp_path).hu, chest())
    enhanced(tmp_path / "b.dcm", chest(), [0, 1, 2])
    with pytest.raises(Unusable, match="between b.dcm frame 2 and a.dcm frame 1"):
        read(tmp_path)


@pytest.mark.parametrize("described", [0, 4, 6, 8])
def test_frames_without_functional_groups_and_groups_without_frames(tmp_path, described):
    enhanced(tmp_path / "e.dcm", chest(), np.arange(SHAPE[0]))
    data = pydicom.dcmread(tmp_path / "e.dcm")
    groups = list(data.PerFrameFunctionalGroupsSequence)
    data.PerFrameFunctionalGroupsSequence = (groups + groups[-1:])[:described]
    data.save_as(tmp_path / "e.dcm")
    with pytest.raises(Unusable, match=f"is {SHAPE[0]}, and .* describes {described}"):
        read(tmp_path)


def test_frames_behind_the_number_of_frames(tmp_path):
    enhanced(tmp_path / "e.dcm", chest(), np.arange(SHAPE[0]))
    data = pydicom.dcmread(tmp_path / "e.dcm")
    data.NumberOfFrames = 5
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:5]
    data.save_as(tmp_path / "e.dcm")
    with pytest.raises(Unusable, match=f"those of {SHAPE[0]} frames, and .* says 5"):
        read(tmp_path)
    del data.PerFrameFunctionalGroupsSequence
    data.NumberOfFrames = None
    data.save_as(tmp_path / "e.dcm")
    with pytest.raises(Unusable, match="missing"):
        read(tmp_path)


def test_levels_through_a_table_or_beyond_their_bits_are_refused(tmp_path):
    paths = series(tmp_path / "study")
    data = pydicom.dcmread(paths[2])
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [2, 0, 16])
    table.add_new("LUTData", "US", [0, 1])
    data.ModalityLUTSequence = [table]
    data.save_as(paths[2])
    with pytest.raises(Unusable, match=f"^{paths[2].name}: .* a table, ModalityLUTSequence"):
        read(tmp_path)
    del data.ModalityLUTSequence
    data.BitsStored, data.HighBit = 9, 8
    data.save_as(paths[2])
    with pytest.raises(Unusable, match=f"^{paths[2].name}: .* BitsStored"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_files_cut_off(tmp_path, keep):
    paths = series(tmp_path / "study")
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(Unusable):
        [_volumes.read(source) for source in _volumes.find(tmp_path)]


def test_header_that_asks_for_too_much(tmp_path):
    series(tmp_path / "study", Rows=65535, Columns=65535)
    with pytest.raises(Unusable, match="its size of"):
        read(tmp_path)


def test_damaged_bytes_never_crash(tmp_path):
    paths = series(tmp_path / "study")
    content = paths[0].read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(25):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = generator.integers(132, len(content) - SHAPE[1] * SHAPE[2] * 2, 6)
        damaged[places] = generator.integers(0, 256, 6)
        paths[0].write_bytes(damaged.tobytes())
        for source in _volumes.find(tmp_path):
            try:
                _volumes.read(source)
            except Unusable:
                pass


def test_links_out_of_the_folder_are_not_followed(tmp_path, caplog):
    outside = series(tmp_path / "outside", SeriesInstanceUID="1.9")
    root = tmp_path / "raw"
    series(root / "study")
    os.symlink(tmp_path / "outside", root / "linked")
    os.symlink(outside[0], root / "study" / "linked.dcm")
    (source,) = _volumes.find(root)
    assert source.name == "study series 5"
    assert len(source.files) == SHAPE[0]
    assert "Not entered, because it is a link" in caplog.text
    source.files[0].unlink()
    os.symlink(outside[0], source.files[0])
    with pytest.raises(Unusable, match="leads out of the input folder"):
        _volumes.read(source)
    source.files[0].unlink()
    with pytest.raises(Unusable, match="is missing"):
        _volumes.read(source)


def test_finding_reads_no_pixels(tmp_path):
    for path in series(tmp_path / "study"):
        content = path.read_bytes()
        path.write_bytes(content[: -SHAPE[1] * SHAPE[2] * 2])  # the pixels are gone
    (source,) = _volumes.find(tmp_path)
    assert source.problem == ""
    with pytest.raises(Unusable, match="pixels are damaged or cut off"):
        _volumes.read(source)


def test_kinds():
    assert {"dicom_ct", "nifti", "nrrd_ct", "metaimage"} <= set(of_kind("ct"))
    assert logging.get_verbosity() is not None
    with pytest.raises(UserError, match="--lesions must be"):
        Options(lesions="each")


def test_memory_is_bounded(tmp_path):
    hu = chest((40, 128, 128))
    series(tmp_path / "a" / "series", hu)
    enhanced(tmp_path / "b.dcm", hu, np.arange(len(hu))[::-1], SeriesInstanceUID="1.2.8")
    for source in _volumes.find(tmp_path):
        volume, most = peak(lambda source=source: _volumes.read(source))
        np.testing.assert_array_equal(volume.hu, hu)
        assert most < 4 * hu.nbytes, source.name
