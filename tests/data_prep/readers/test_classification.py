"""Folders, tables and arrays of classified images."""

import os
import pathlib
import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data_prep import parts, runner
from data_prep.errors import UserError
from data_prep.readers import _classification, dicom_ct, image_npz
from data_prep.readers._classification import NAME, NOTHING, TABLE, Options
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.data_prep.pictures import save, texture, write_dicom, write_folders


def find(root, frames="first", **given):
    return _classification.find(root, Options(**given), Decoding(frames=frames))


def facts(found) -> dict[str, tuple]:
    """Name -> classes by name, subject, split."""
    return {
        p.name: (tuple(found.classes[i] for i in p.labels), p.subject, p.split)
        for p in found.pictures
    }


def write_table(path: pathlib.Path, *rows: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def usable(found):
    return [picture for picture in found.pictures if not picture.problem]


class TestFolders:
    def test_a_folder_is_a_class(self, tmp_path):
        write_folders(tmp_path, 2)
        save(tmp_path / "ill" / "ward 7" / "c.jpg", texture(5))
        (tmp_path / "ill" / "notes.txt").write_text("none")
        found = find(tmp_path)
        assert found.classes == ("ill", "well") and not found.multilabel
        assert facts(found) == {
            name: ((name.partition("/")[0],), f"image {name}", "")
            for name in (
                "ill/p00_i0.png",
                "ill/p00_i1.png",
                "ill/ward 7/c.jpg",
                "well/p10_i0.png",
                "well/p10_i1.png",
            )
        }
        assert {p.known_by for p in found.pictures} == {NOTHING}

    @pytest.mark.parametrize("names", [("train", "test"), ("Training", "valid", "TEST")])
    def test_splits_above_the_classes(self, tmp_path, names):
        words = {"train": "train", "training": "train", "valid": "validation", "test": "test"}
        for name in names:
            write_folders(tmp_path / "set" / name, 2)  # in the folder of an archive
        (tmp_path / "set" / "__MACOSX").mkdir()
        save(tmp_path / "set" / "__MACOSX" / "x.png", texture(1))
        found = find(tmp_path)
        assert found.classes == ("ill", "well")
        for picture in found.pictures:
            split = picture.name.split("/")[1]
            assert picture.split == words[split.lower()]
        assert len(found.pictures) == 4 * len(names)
        assert {p.split for p in find(tmp_path, own_split=False).pictures} == {""}

    def test_an_empty_folder_is_a_class_without_images(self, tmp_path):
        write_folders(tmp_path)
        (tmp_path / "dead").mkdir()
        assert find(tmp_path).classes == ("dead", "ill", "well")

    def test_images_beside_the_class_folders_are_left_out(self, tmp_path, caplog):
        write_folders(tmp_path, 2)
        save(tmp_path / "logo.png", texture(7))
        (left,) = [p for p in find(tmp_path).pictures if p.problem]
        assert (left.name, left.problem) == ("logo.png", "it lies in no class folder")
        assert len(usable(find(tmp_path))) == 4

    def test_masks_beside_images_are_named_and_no_images(self, tmp_path):
        """As BUSI, COVID-19 radiography and others have them; never one without its image."""
        images = ["a/x (1).png", "a/x (2).png", "b/y.1.png", "b/mask of wood.png"]
        images += [
            "b/unmasked.png",
            "c/images/z-1.png",
            "c/Images/z-2.png",
            "d/w.png",
            "d/seg_2.png",
        ]
        masks = [
            "a/x (1)_mask.png",
            "a/x (1)_mask_1.png",
            "a/X (2)-Segmentation.png",
            "b/y.1_gt.png",
        ]
        masks += ["c/masks/z-1.png", "c/masks/z-2_mask.png", "d/mask_w.png", "d/masks/w.png"]
        images += ["e/img_1.png", "e/2_image.png", "e/3.png", "e/images/v.png", "e/roi.png"]
        masks += ["e/mask_1.png", "e/2_mask.png", "e/3_anno.png", "e/masks/called otherwise.png"]
        for number, name in enumerate(images + masks):
            save(tmp_path / name, texture(number))
        found = find(tmp_path)
        assert {p.name for p in usable(found)} == set(images)
        left = {p.name: p.problem for p in found.pictures if p.problem}
        assert left == dict.fromkeys(masks, "it is a mask beside its image")
        assert found.classes == ("a", "b", "c", "d", "e")
        assert all(not p.files for p in found.pictures if p.problem)

    def test_a_class_may_be_called_mask(self, tmp_path):
        for number, name in enumerate(
            ("mask/a.png", "no_mask/a.png", "mask/b.png", "no_mask/c.png")
        ):
            save(tmp_path / name, texture(number))
        assert len(usable(find(tmp_path))) == 4

    @pytest.mark.parametrize(
        "names", [("images", "masks"), ("Original", "Ground Truth"), ("fold1", "fold2", "fold_3")]
    )
    def test_folders_that_are_surely_no_classes(self, tmp_path, names):
        for number, name in enumerate(names):
            save(tmp_path / name / "a.png", texture(number))
        with pytest.raises(UserError, match="give a table with the columns path"):
            find(tmp_path)

    @pytest.mark.parametrize(
        "names",
        [("train", "val", "test"), ("Training", "Validation", "Testing")]
        + [("TrainDataset", "valid", "TestDataset"), ("train_set", "val_set", "test images")],
    )
    @pytest.mark.parametrize("inner", [False, True])
    def test_a_split_by_folders_of_any_name(self, tmp_path, names, inner):
        for number, name in enumerate(names):
            for label in ("ill", "well"):
                places = (label, name) if inner else (name, label)
                save(
                    tmp_path.joinpath(*places) / f"{number}.png", texture(10 * number + len(label))
                )
        found = find(tmp_path)
        assert found.classes == ("ill", "well")
        splits = {p.name.rpartition("/")[2]: p.split for p in found.pictures}
        assert splits == {"0.png": "train", "1.png": "validation", "2.png": "test"}

    def patients(self, tmp_path, *lines, name="patients.csv"):
        write_folders(tmp_path, 2)  # ill/p00_i0 and i1, well/p10_i0 and i1
        write_table(tmp_path / name, *lines)
        return {p.name: (p.subject, p.known_by) for p in find(tmp_path).pictures}

    @pytest.mark.parametrize(
        "form", ["ill/p00_i{}.png", "p00_i{}.png", "p00_i{}", "./ill/p00_i{}.png"]
    )
    @pytest.mark.parametrize("heading", ["patient", "Patient ID", "subject_id", "PatientID"])
    def test_a_table_of_patients_beside_class_folders(self, tmp_path, caplog, form, heading):
        rows = [f"{form.format(number)},f,7" for number in range(2)]
        found = self.patients(tmp_path, f"file,sex,{heading}", *rows, "gone.png,m,8")
        assert found["ill/p00_i0.png"] == found["ill/p00_i1.png"] == ("7", "table")
        assert found["well/p10_i0.png"] == ("image well/p10_i0.png", "nothing")
        assert "2 of 4 images are named by no row" in caplog.text
        assert "1 rows of" in caplog.text and "name no image that is there" in caplog.text

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            (
                ("file,patient", "p00_i0,1", "p00_i0,2"),
                "row 3: ill/p00_i0.png is of subject 2, but",
            ),
            (("file,patient,subject", "p00_i0,1,2"), "several columns of subjects"),
            (("file,patient", "p00_i0,n/a"), "patient"),
        ],
    )
    def test_a_table_of_patients_that_is_not_certain(self, tmp_path, lines, reason):
        with pytest.raises(UserError, match=reason):
            self.patients(tmp_path, *lines)

    def test_a_name_that_two_images_have_tells_no_patient(self, tmp_path):
        for label in ("ill", "well"):
            save(tmp_path / label / "1.png", texture(len(label)))
        write_table(tmp_path / "meta.csv", "name,patient", "1.png,7")
        with pytest.raises(UserError, match="1.png is the name of 2 images, such as ill/1.png and"):
            find(tmp_path)

    @pytest.mark.parametrize(
        ("lines", "lack"),
        [(("file,age", "p00_i0,30"), "subjects"), (("file,patient", "other,1"), "image names")],
    )
    def test_a_table_that_is_not_used_is_named(self, tmp_path, caplog, lines, lack):
        found = self.patients(tmp_path, *lines)
        assert {known for _, known in found.values()} == {"nothing"}
        assert (
            "patients.csv is not used: it has no column of" in caplog.text and lack in caplog.text
        )

    def test_folders_of_splits_and_others(self, tmp_path):
        write_folders(tmp_path / "train")
        save(tmp_path / "more" / "a.png", texture(1))
        with pytest.raises(UserError, match=r"splits \(train\) and others with images \(more\)"):
            find(tmp_path)

    def test_one_class_only(self, tmp_path):
        write_folders(tmp_path, classes=("ill",))
        with pytest.raises(UserError, match="one class only, 'ill'"):
            find(tmp_path)

    def test_capitals(self, tmp_path):
        write_folders(tmp_path, 2, classes=("ILL", "ill", "well"))
        with pytest.raises(UserError, match="'ILL' and 'ill' differ in capitals only"):
            find(tmp_path)

    def test_numbers_are_in_order_and_may_be_named(self, tmp_path):
        write_folders(tmp_path, 1, classes=("10", "9"))
        assert find(tmp_path).classes == ("9", "10")
        write_folders(tmp_path / "other", 1, classes=("0", "1"))
        found = find(tmp_path / "other", classes=("none", "some"))
        assert facts(found)["1/p10_i0.png"][0] == ("some",)

    def test_a_label_that_is_not_in_the_list(self, tmp_path):
        write_folders(tmp_path, 2)
        with pytest.raises(UserError, match=r"'well' is not in the list of classes \(ill, dead\)"):
            find(tmp_path, classes=("ill", "dead"))
        assert find(tmp_path, classes=("well", "dead", "ill")).classes == ("well", "dead", "ill")
        with pytest.raises(UserError, match="twice"):
            find(tmp_path, classes=("ill", "well", "ill"))

    def test_links_that_lead_out_are_not_read(self, tmp_path):
        root = write_folders(tmp_path / "set", 2)
        outside = save(tmp_path / "secret.png", texture(9))
        os.symlink(outside, root / "ill" / "link.png")
        found = find(root)
        (link,) = (p for p in found.pictures if p.name == "ill/link.png")
        with pytest.raises(Unusable, match="leads out"):
            _classification.read(link, Decoding(), tmp_path)

    def test_a_link_that_leads_out_is_not_looked_into(self, tmp_path, monkeypatch):
        root = write_folders(tmp_path / "set", 2)
        outside = write_dicom(tmp_path / "secret", texture(9))
        os.symlink(outside, root / "ill" / "link")
        looked = []
        is_dicom = dicom_ct.is_dicom
        monkeypatch.setattr(dicom_ct, "is_dicom", lambda p: looked.append(p.name) or is_dicom(p))
        assert len(find(root).pictures) == 4 and "link" not in looked

    def test_links_in_a_ring_and_pipes_are_named(self, tmp_path):
        root = write_folders(tmp_path / "set", 2)
        os.symlink("ring.png", root / "ill" / "ring.png")
        os.mkfifo(root / "ill" / "pipe.png")
        os.mkfifo(root / "ill" / "pipe")
        found = find(root)
        assert len(runner.tokens(found.pictures, {}, 1)) == 6
        problems = {}
        for picture in found.pictures:
            try:
                _classification.read(picture, Decoding(), tmp_path)
            except Unusable as error:
                problems[picture.name] = str(error)
        assert problems == {
            "ill/pipe.png": "the image file is no regular file",
            "ill/ring.png": "it is a link that leads out of the input folder",
        }

    def test_one_class_in_two_unicode_forms(self, tmp_path):
        for split, form in (("train", "NFC"), ("test", "NFD")):
            name = unicodedata.normalize(form, "gutartiger Tumör")
            write_folders(tmp_path / split, 2, classes=("Karzinom", name))
        name = unicodedata.normalize("NFC", "gutartiger Tumör")
        assert find(tmp_path).classes == ("Karzinom", name)
        given = (unicodedata.normalize("NFD", name), "Karzinom")
        found = find(tmp_path, classes=given)
        assert found.classes == (name, "Karzinom")
        assert sorted(p.labels for p in found.pictures) == [(0,)] * 4 + [(1,)] * 4

    def test_one_subject_in_two_unicode_forms(self, tmp_path):
        for number, form in enumerate(("NFC", "NFD")):
            name = unicodedata.normalize(form, f"Jörg_{number}.png")
            save(tmp_path / "ill" / name, texture(number))
            save(tmp_path / "well" / f"Anna_{number}.png", texture(10 + number))
        found = find(tmp_path, subject_regex=unicodedata.normalize("NFC", "/([A-zö]+)_"))
        subjects = {unicodedata.normalize("NFC", "Jörg"), "Anna"}
        assert {p.subject for p in found.pictures} == subjects

    def test_a_class_whose_name_is_not_utf8(self, tmp_path):
        write_folders(tmp_path, 2, classes=("ill", os.fsdecode(b"gr\xfcn")))
        with pytest.raises(UserError, match=r"class 'gr\\udcfcn' is not UTF-8"):
            find(tmp_path)

    def test_gif_and_other_names_of_jpeg(self, tmp_path):
        write_folders(tmp_path, 2)
        for suffix in ("gif", "jfif", "jpe"):
            kind = "GIF" if suffix == "gif" else "JPEG"
            save(tmp_path / "ill" / f"a.{suffix}", texture(5), format=kind, quality=95)
        found = {p.name: p for p in find(tmp_path).pictures}
        assert len(found) == 7
        image, notes = _classification.read(found["ill/a.gif"], Decoding(), tmp_path)
        np.testing.assert_array_equal(image, np.dstack([texture(5)] * 3))
        assert notes == ()
        for suffix in ("jfif", "jpe"):
            image, _ = _classification.read(found[f"ill/a.{suffix}"], Decoding(), tmp_path)
            expected = np.asarray(Image.open(tmp_path / "ill" / f"a.{suffix}").convert("RGB"))
            np.testing.assert_array_equal(image, expected)

    def test_files_that_may_be_images_are_counted(self, tmp_path, caplog):
        write_folders(tmp_path, 2)
        for name in ("ill/a.heic", "ill/b.HEIC", "well/c.nii.gz", "well/notes.txt", "ill/d.csv.gz"):
            (tmp_path / name).write_bytes(b"x")
        assert len(find(tmp_path).pictures) == 4
        (warning,) = [text for text in caplog.messages if "not read" in text]
        assert warning.startswith("3 files are not read, although they may be images (.heic, .nii)")
        assert "ill/a.heic" in warning

    def test_patients_above_classes(self, tmp_path):
        for number in range(5):
            write_folders(tmp_path / f"Anna{number}", 1 + number % 2)
        save(tmp_path / "Berta" / "ill" / "a.png", texture(1))  # who is not ill and well
        with pytest.raises(UserError, match=r"5 of 6 folders .*\(ill, well\).*PATIENT/CLASS"):
            find(tmp_path)
        names = tuple(sorted(path.name for path in tmp_path.iterdir()))
        assert find(tmp_path, classes=names).classes == names

    @pytest.mark.parametrize("names", [("ill", "well"), ("dead", "ill", "well")])
    def test_folders_below_classes(self, tmp_path, names):
        for name in names:
            save(tmp_path / name / "40x" / "a.png", texture(1))
            save(
                tmp_path / name / ("100x" if len(names) == 2 else f"{name} 7") / "a.png", texture(2)
            )
        assert find(tmp_path).classes == names

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            find(tmp_path / "absent")
        with pytest.raises(UserError, match="holds no classified image. Looked for"):
            find(tmp_path)
        with pytest.raises(UserError, match="--layout must be auto"):
            find(tmp_path, layout="pile")


class TestSubjects:
    def test_by_pattern(self, tmp_path):
        found = find(write_folders(tmp_path), subject_regex=r"(p\d+)_")
        assert {p.subject for p in found.pictures} == {"p00", "p01", "p02", "p10", "p11", "p12"}
        assert {p.known_by for p in found.pictures} == {NAME}

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            (r"(patient\d+)", r"gives no subject for ill/p00_i0.png"),
            (r"p\d+", "has no group"),
            ("(", "is no regular expression"),
        ],
    )
    def test_patterns_that_do_not_fit(self, tmp_path, pattern, reason):
        with pytest.raises(UserError, match=reason):
            find(write_folders(tmp_path), subject_regex=pattern)

    def test_from_dicom_and_every_frame(self, tmp_path):
        film = np.stack([texture(i) for i in range(3)])
        write_dicom(tmp_path / "ill" / "a.dcm", film)
        write_dicom(tmp_path / "well" / "b", texture(4), PatientID="Musterfrau")
        found = find(tmp_path, frames="all")
        assert facts(found) == {
            "ill/a.dcm#0": (("ill",), "Mustermann", ""),
            "ill/a.dcm#1": (("ill",), "Mustermann", ""),
            "ill/a.dcm#2": (("ill",), "Mustermann", ""),
            "well/b": (("well",), "Musterfrau", ""),
        }
        for picture in found.pictures:
            image, _ = _classification.read(picture, Decoding(levels="type"), tmp_path)
            number = int(picture.name[-1]) if "#" in picture.name else 4
            np.testing.assert_array_equal(image[..., 0], texture(number))
        assert [p.name for p in find(tmp_path, frames="middle").pictures] == [
            "ill/a.dcm#1",
            "well/b",
        ]

    def test_all_of_one_subject_cannot_be_split(self, tmp_path):
        for name in ("ill", "well"):
            write_dicom(tmp_path / name / "a.dcm", texture(len(name)))
        with pytest.raises(UserError, match=r"one subject by PatientID \(0010,0020\)"):
            parts.warn_of_subjects(find(tmp_path).pictures)
        parts.warn_of_subjects(find(tmp_path).pictures, divided=False)

    @pytest.mark.parametrize(("count", "warned"), [(6, True), (5, False)])
    def test_a_subject_with_many_images_may_be_a_placeholder(self, tmp_path, caplog, count, warned):
        for number in range(25):
            who = "unknown" if number < count else f"p{number:02d}"
            save(tmp_path / ("ill", "well")[number % 2] / f"{who}_{number}.png", texture(number))
        parts.warn_of_subjects(find(tmp_path, subject_regex=r"/([a-z\d]+)_").pictures)
        assert ("of one subject, 'unknown'" in caplog.text) == warned
        caplog.clear()
        few = find(tmp_path, subject_regex=r"/([a-z\d]+)_").pictures[:20]
        parts.warn_of_subjects(few)
        assert "placeholder" not in caplog.text

    def test_unknown_ones_are_warned_of(self, tmp_path, caplog):
        parts.warn_of_subjects(find(write_folders(tmp_path)).pictures)
        assert "12 of 12 images do not say" in caplog.text


class TestTables:
    @pytest.fixture
    def root(self, tmp_path):
        write_folders(tmp_path / "images", 2)
        return tmp_path

    def test_columns(self, root):
        write_table(
            root / "any name.csv",
            "Path,LABEL,subject,split,age",
            "images/ill/p00_i0.png,ill,Anna,train,7",
            "images\\ill\\p00_i1.png,ill,Anna,train,7",
            "images/well/p10_i0.png,well,Berta,val,8",
            "images/well/./p10_i1.png,well,Carl,test,9",
        )
        found = find(root)
        assert facts(found) == {
            "images/ill/p00_i0.png": (("ill",), "Anna", "train"),
            "images/ill/p00_i1.png": (("ill",), "Anna", "train"),
            "images/well/p10_i0.png": (("well",), "Berta", "validation"),
            "images/well/p10_i1.png": (("well",), "Carl", "test"),
        }
        assert {p.known_by for p in found.pictures} == {TABLE}
        assert facts(find(root / "any name.csv")) == facts(found)

    def test_other_names_of_columns_and_several_labels(self, root):
        write_table(
            root / "a.csv",
            "Image Index;Finding Labels;Patient",
            "images/ill/p00_i0.png;Mass | Nodule;1",
            "images/ill/p00_i1.png;;1",
            "images/well/p10_i0.png;Nodule;2",
        )
        names = {"path": "Image Index", "label": "Finding Labels", "subject": "patient"}
        found = find(root, columns=names)
        assert found.multilabel and found.classes == ("Mass", "Nodule")
        assert [p.labels for p in usable(found)] == [(0, 1), (), (1,)]
        assert {p.problem for p in found.pictures if p.problem} == {"no row names it"}
        with pytest.raises(UserError, match="several labels, but an image has one"):
            find(root, columns=names, multilabel=False)

    def test_a_table_for_each_split(self, root):
        for split, image in (
            ("train", "ill/p00_i0"),
            ("val", "well/p10_i0"),
            ("test", "ill/p00_i1"),
        ):
            label = image.partition("/")[0]
            write_table(root / f"{split}.csv", "path,label", f"images/{image}.png,{label}")
        found = {p.name: p.split for p in usable(find(root))}
        assert found == {
            "images/ill/p00_i0.png": "train",
            "images/well/p10_i0.png": "validation",
            "images/ill/p00_i1.png": "test",
        }

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("../secret.png,ill,,", r"row 3: \.\./secret\.png leads out of"),
            ("/etc/passwd,ill,,", "row 3: /etc/passwd leads out of"),
            ("images/../../secret.png,ill,,", "leads out of"),
            ("images/ill/p00_i0.png,well,,", "row 3 names images/ill/p00_i0.png, as .*row 2 does"),
            ("images/ill/p00_i1.png,,,", "row 3: no label, but an image has one"),
            (",ill,,", "row 3: no path"),
            ("images/ill/p00_i1.png,ill,x,dev2", "the split 'dev2' is none of"),
        ],
    )
    def test_rows_that_cannot_be(self, root, row, reason):
        save(root.parent / "secret.png", texture(1))
        first = "images/ill/p00_i0.png,ill,a,train"
        write_table(root / "a.csv", "path,label,subject,split", first, row)
        with pytest.raises(UserError, match=reason):
            find(root)

    @pytest.mark.parametrize(
        ("heading", "reason"),
        [("path,class", "lacks the column label"), ("file,label", "lacks the column path")],
    )
    def test_missing_columns(self, root, heading, reason):
        write_table(root / "a.csv", heading, "images/ill/p00_i0.png,ill")
        with pytest.raises(UserError, match=reason):
            find(root)

    def test_a_table_that_speaks_of_something_else(self, tmp_path):
        write_table(write_folders(tmp_path, 2) / "scanners.csv", "room,maker", "7,Halo")
        assert find(tmp_path).layout == "class_folders"
        with pytest.raises(UserError, match="lacks the column path and label"):
            find(tmp_path, layout="image_table")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("", "is empty"),
            ("\n\n", "is empty"),
            ("path,label\n", "has headings but no row"),
            ("path|label\nimages/ill/p00_i0.png|ill\n", r"is parted by '\|'"),
            ("path,diagnosis\nimages/ill/p00_i0.png,ill\n", "lacks the column label"),
        ],
    )
    @pytest.mark.parametrize("beside", [False, True])
    @pytest.mark.parametrize("name", ["test.csv", "test.tsv"])
    def test_a_table_that_says_nothing_is_named(self, root, content, reason, beside, name):
        (root / name).write_text(content)
        if beside:
            write_table(root / "train.csv", "path,label", "images/ill/p00_i0.png,ill")
        with pytest.raises(UserError, match=f"{name} {reason}"):
            find(root)

    def test_a_table_parted_by_tabs(self, root):
        rows = [f"images/{n}\t{n[:-11]}" for n in ("ill/p00_i0.png", "well/p10_i0.png")]
        write_table(root / "a.tsv", "path\tlabel", *rows)
        found = find(root)
        assert (found.layout, found.classes) == ("image_table", ("ill", "well"))

    def test_a_table_that_is_a_pipe(self, root):
        os.mkfifo(root / "a.csv")
        with pytest.raises(UserError, match="is no regular file"):
            find(root)

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_a_path_in_another_unicode_form(self, root, form):
        other = {"NFC": "NFD", "NFD": "NFC"}[form]
        names = [unicodedata.normalize(form, f"Bücher/ä{number}.png") for number in range(2)]
        for number, name in enumerate(names):
            save(root / name, texture(number))
        written = [unicodedata.normalize(other, name) for name in names]
        table = write_table(root / "a.csv", "path,label", f"{written[0]},ill", f"{written[1]},well")
        found = find(root)
        assert [p.name for p in usable(found)] == names
        for number, picture in enumerate(usable(found)):
            image, _ = _classification.read(picture, Decoding(levels="type"), root)
            np.testing.assert_array_equal(image[..., 0], texture(number))
        write_table(table, "path,label", f"{written[0]},ill", f"{names[0]},well")
        with pytest.raises(UserError, match="row 3 names .* as .*row 2 does"):
            find(root)
        absent = unicodedata.normalize(other, "ü/ä9.png")
        write_table(table, "path,label", f"{absent},ill", f"../{written[1]},well")
        with pytest.raises(UserError, match="row 3: .* leads out of"):
            find(root)
        write_table(table, "path,label", f"{absent},ill", f"{written[1]},well")
        assert [p.name for p in usable(find(root))] == [absent, names[1]]

    def test_a_missing_image_is_a_problem_of_its_own(self, root):
        write_table(root / "a.csv", "path,label", "images/a.png,ill", "images/b.png,well")
        with pytest.raises(Unusable, match="missing"):
            _classification.read(find(root).pictures[0], Decoding(), root)

    def test_an_unknown_column_is_refused(self, root):
        with pytest.raises(UserError, match="--columns: 'image' is none of path, label"):
            find(root, columns={"image": "file"})


def arrays(several: bool = False, colour: bool = False, **other) -> dict[str, np.ndarray]:
    """As MedMNIST has them."""
    rng = np.random.default_rng(0)
    content = {}
    for place, (part, count) in enumerate((("train", 8), ("val", 4), ("test", 4))):
        images = np.stack([texture(100 * place + i, 28, 28) for i in range(count)])
        content[f"{part}_images"] = np.stack([images] * 3, axis=-1) if colour else images
        labels = np.arange(count)[:, None] % 2
        content[f"{part}_labels"] = rng.integers(0, 2, (count, 3)) if several else labels
    return {**content, **other}


class TestArrays:
    def read_all(self, path, found, folder):
        image_npz.unpack(found.pictures, path, folder)
        return [_classification.read(p, Decoding(), folder)[0] for p in found.pictures]

    @pytest.mark.parametrize("colour", [False, True])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("as_file", [False, True])
    def test_medmnist(self, tmp_path, colour, compressed, as_file):
        content = arrays(colour=colour)
        write = np.savez_compressed if compressed else np.savez
        path = tmp_path / "set" / "pneumonia.npz"
        path.parent.mkdir()
        write(path, **content)
        source = path if as_file else path.parent
        found = find(source)
        assert found.classes == ("0", "1") and not found.multilabel
        assert [p.name for p in found.pictures[7:9]] == ["train/7", "val/0"]
        assert [p.split for p in found.pictures[7:13:5]] == ["train", "test"]
        for picture, image in zip(
            found.pictures, self.read_all(source, found, tmp_path / "x"), strict=True
        ):
            part, number = picture.name.split("/")
            expected = content[f"{part}_images"][int(number)]
            np.testing.assert_array_equal(image[..., 1], expected[..., 1] if colour else expected)
            assert picture.labels == tuple(content[f"{part}_labels"][int(number)])
            assert not picture.files

    def test_names_subjects_and_gaps(self, tmp_path):
        content = arrays(train_subjects=np.array(list("aabbccdd")))
        content["train_labels"] = content["train_labels"] * 2
        np.savez(tmp_path / "a.npz", **content)
        found = find(tmp_path)
        assert found.classes == ("0", "1", "2")  # there is a class 1, without training images
        assert [p.subject for p in found.pictures[:4]] == ["a", "a", "b", "b"]
        assert find(tmp_path, classes=("x", "y", "z")).classes == ("x", "y", "z")
        with pytest.raises(UserError, match=r"row 1 of train_labels: the label '2' is not in"):
            find(tmp_path, classes=("x", "y"))

    @pytest.mark.parametrize("parts", [("train", "val", "test"), ("train", "test"), ("train",)])
    def test_several_labels(self, tmp_path, parts):
        content = arrays(several=True)
        content = {k: v for k, v in content.items() if k.partition("_")[0] in parts}
        np.savez(tmp_path / "a.npz", **content)
        found = find(tmp_path)
        assert found.multilabel and found.classes == ("0", "1", "2")
        for picture in found.pictures:
            part, number = picture.name.split("/")
            row = content[f"{part}_labels"][int(number)]
            assert picture.labels == tuple(np.flatnonzero(row))

    def test_truth_values_and_a_part_without_images(self, tmp_path):
        content = {k: v[:0] if k.startswith("val") else v for k, v in arrays().items()}
        content["train_labels"] = content["train_labels"].astype(bool)
        np.savez(tmp_path / "a.npz", **content)
        found = find(tmp_path)
        assert found.classes == ("0", "1")
        assert {p.split for p in found.pictures} == {"train", "test"}
        assert [p.labels for p in found.pictures[:2]] == [(0,), (1,)]

    def test_an_archive_that_is_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "a.npz")
        with pytest.raises(UserError, match="is no regular file"):
            find(tmp_path)

    def test_pickled_objects_are_never_loaded(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "exploded"),))

        assert pickle.dumps(Bomb())
        for name in ("train_labels", "train_images", "unused"):
            content = arrays(**{name: np.array([Bomb()] * 8, dtype=object)})
            np.savez(tmp_path / "a.npz", **content)
            with pytest.raises(UserError, match=f"{name} holds pickled Python objects"):
                find(tmp_path)
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"train_images": np.zeros((8, 28), np.uint8)}, r"has the shape \(8, 28\)"),
            ({"train_images": np.zeros((8, 28, 28, 2), np.uint8)}, "has the shape"),
            ({"train_images": np.zeros((8, 1, 1), np.uint8)}, "1 x 1 pixels"),
            ({"train_labels": np.zeros((7, 1), np.uint8)}, "train_labels has the shape"),
            ({"train_labels": np.full((8, 1), 0.5)}, "class numbers from 0"),
            ({"train_labels": np.full((8, 1), -1)}, "class numbers from 0"),
            ({"train_labels": np.full((8, 2), 2)}, "must hold 0 and 1"),
            ({"test_subjects": np.arange(3)}, "test_subjects must be one row"),
            ({"val_labels": np.array([0, 1, 10**9, 1])}, "val_labels, row 2 says that there are"),
            ({"val_labels": np.array([0, 2**64 - 1, 0, 1], np.uint64)}, "val_labels, row 1 says"),
            ({"test_labels": np.zeros((4, 10_001), np.uint8)}, "test_labels says that there are"),
        ],
    )
    def test_arrays_that_cannot_be(self, tmp_path, other, reason):
        np.savez(tmp_path / "a.npz", **arrays(**other))
        with pytest.raises(UserError, match=reason):
            find(tmp_path)

    def test_missing_arrays_and_damage(self, tmp_path):
        content = arrays()
        del content["train_labels"]
        np.savez(tmp_path / "a.npz", **content)
        with pytest.raises(UserError, match="train_labels is missing"):
            find(tmp_path)
        np.savez(tmp_path / "a.npz", x=np.zeros(3))
        with pytest.raises(UserError, match="has no arrays train_images and train_labels, only x"):
            find(tmp_path)
        whole = (tmp_path / "a.npz").read_bytes()
        (tmp_path / "a.npz").write_bytes(whole[:100])
        with pytest.raises(UserError, match="damaged or no npz file"):
            find(tmp_path)
        (tmp_path / "b.npz").write_bytes(whole)
        with pytest.raises(UserError, match="holds 2 npz files"):
            find(tmp_path)

    def test_floating_point_images_out_of_range(self, tmp_path):
        images = np.stack([texture(i, 28, 28) for i in range(8)]) / 255.0
        images[3] *= -1
        np.savez(tmp_path / "a.npz", **arrays(train_images=images))
        found = find(tmp_path)
        image_npz.unpack(found.pictures, tmp_path, tmp_path / "x")
        image, _ = _classification.read(found.pictures[0], Decoding(), tmp_path / "x")
        np.testing.assert_array_equal(image[..., 0], texture(0, 28, 28))
        with pytest.raises(Unusable, match="floating-point levels"):
            _classification.read(found.pictures[3], Decoding(), tmp_path / "x")
