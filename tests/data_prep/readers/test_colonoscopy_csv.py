import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from data_prep.readers._colonoscopy import Sampling
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image


def write_table(root, rows, heading="image,mask,case", images=4):
    for number in range(images):
        write_image(root / f"i{number}.png", pattern(number))
        write_image(root / f"m{number}.png", disc())
    (root / "frames.csv").write_text("\n".join([heading, *rows]))


def test_cases(tmp_path):
    write_table(tmp_path, ["i1.png,m1.png,A", "i0.png,,A", "i2.png,none,B"])
    a, b = _colonoscopy.find(tmp_path)
    frames = list(_colonoscopy.frames(a))
    assert [frame.index for frame in frames] == [0, 1]
    np.testing.assert_array_equal(frames[0].image, pattern(1))
    np.testing.assert_array_equal(frames[0].mask, disc() > 0)
    assert frames[1].mask is None
    (frame,) = _colonoscopy.frames(b)
    assert frame.mask is not None and not frame.mask.any()
    assert (a.kind, a.case, a.subject, a.no_identity) == ("colonoscopy_csv", "A", "A", False)
    assert [path.name for path in a.files] == ["i1.png", "m1.png", "i0.png", "frames.csv"]


def test_everything_a_table_may_say(tmp_path):
    heading = "Image;Mask;Case;Subject;Frame;time_s;Label;Split"
    rows = [
        "i0.png;m0.png;A;P;30;1,2;informative;val",
        "i1.png;;A;P;10;0,4;uninformative;",
        "i2.png;m2.png;B;P;7;;;validation",
    ]
    write_table(tmp_path, rows, heading)
    a, b = _colonoscopy.find(tmp_path)
    assert (a.subject, a.split, b.subject, b.split) == ("P", "validation", "P", "validation")
    said = [(frame.index, frame.time_s, frame.label) for frame in _colonoscopy.frames(a)]
    assert said == [(10, 0.4, 0), (30, 1.2, 1)]
    taken = _colonoscopy.frames(a, Sampling(every_s=0.5))
    assert [frame.index for frame in taken] == [10, 30]


@pytest.mark.parametrize(
    ("rows", "heading", "reason"),
    [
        (["i0.png,A"], "image,case", "lacks the columns mask"),
        ([], "image,mask,case", "headings but no row"),
        (["i0.png,,"], "image,mask,case", "no case for i0.png"),
        (["i0.png,,A,P", "i1.png,,A,Q"], "image,mask,case,subject", "subject P and the subject Q"),
        (["i0.png,,A,train", "i1.png,,A,test"], "image,mask,case,split", "split train and"),
        (["i0.png,,A,1", "i1.png,,A,1"], "image,mask,case,frame", "two frames of one number"),
        (["i0.png,,A,x"], "image,mask,case,frame", "frame 'x'"),
        (["i0.png,,A,x"], "image,mask,case,time_s", "time_s 'x'"),
        (["i0.png,,A,so-so"], "image,mask,case,label", "label 'so-so'"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, rows, heading, reason):
    write_table(tmp_path, rows, heading)
    with pytest.raises(UserError, match=reason):
        _colonoscopy.find(tmp_path)


def test_one_subject_in_two_splits(tmp_path):
    rows = ["i0.png,,A,P,train", "i1.png,,B,P,test"]
    write_table(tmp_path, rows, "image,mask,case,subject,split")
    with pytest.raises(UserError, match="A is given as train and B as test.*subject P"):
        _colonoscopy.find(tmp_path)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    write_table(tmp_path, ["i0.png,m0.png,A", "gone.png,m1.png,A", "i2.png,none.png,A"])
    notes = []
    (source,) = _colonoscopy.find(tmp_path)
    frames = list(_colonoscopy.frames(source, None, notes))
    assert [frame.index for frame in frames] == [0]
    assert notes == ["left out: the image file is missing (frames: 2)"]
    write_table(tmp_path, ["gone.png,m1.png,A"])
    (source,) = _colonoscopy.find(tmp_path)
    with pytest.raises(Unusable, match="missing"):
        list(_colonoscopy.frames(source))


@pytest.mark.parametrize("image", ["../secret.png", "/etc/hostname"])
def test_paths_may_not_leave_the_folder(tmp_path, image):
    root = tmp_path / "in"
    write_image(tmp_path / "secret.png")
    write_table(root, [f"{image},,A"])
    (source,) = _colonoscopy.find(root)
    with pytest.raises(Unusable, match="outside the input folder"):
        _colonoscopy.frames(source)
    assert all("secret" not in str(path) for path in source.files)
