"""Who is in which part: repeats together, own splits kept but for their leaks."""

import collections
import pathlib

import pytest

from data_prep import command, parts, repeats
from data_prep.errors import UserError
from data_prep.readers._classification import NAME, Picture
from data_prep.repeats import Repeats
from data_prep.splits import pseudonym

KEY = b"secret"
NONE = Repeats([], [])


def picture(name: str, subject: str, label: int = 0, split: str = "") -> Picture:
    return Picture(name, (), pathlib.Path("/"), (label,), subject, NAME, split)


def case(name: str) -> str:
    return pseudonym(name, KEY)


def options(**given) -> command.Options:
    return command.Options(pathlib.Path("out"), key=KEY, test_fraction=0.25, **given)


def pair(one: str, other: str) -> dict:
    return {"cases": [case(one), case(other)], "bits": 2, "correlation": 0.97}


def test_subjects_of_repeated_images_count_as_one():
    pictures = [picture(f"{subject}{i}", subject) for subject in "abcdef" for i in range(2)]
    same = Repeats([[case("a0"), case("c1"), case("e0")]], [pair("c0", "d1"), pair("f0", "f1")])
    whole = repeats.together(pictures, same, KEY)
    owners = collections.defaultdict(set)
    for before, after in zip(pictures, whole, strict=True):
        assert before.name == after.name
        owners[after.subject].add(before.subject)
    assert dict(owners) == {"a": set("acde"), "b": {"b"}, "f": {"f"}}
    assert repeats.together(pictures[::-1], same, KEY) == whole[::-1]
    # An image that could not be used later on joins nobody.
    assert repeats.together(pictures[1:], same, KEY)[0].subject == "a"


def test_one_image_with_two_labels_is_a_conflict():
    pictures = [
        picture(name, name, label) for name, label in zip("abcd", (0, 1, 0, 0), strict=True)
    ]
    same = Repeats([[case("a"), case("c")]], [pair("b", "c")])
    (found,) = repeats.conflicts(pictures, same, KEY)
    assert set(found) == {case("a"), case("b"), case("c")}
    assert repeats.conflicts(pictures, Repeats([[case("c"), case("d")]], []), KEY) == []


def test_classes_are_in_proportion_in_every_part():
    pictures = [picture(f"{i}.{j}", f"s{i}", int(i % 4 == 0)) for i in range(80) for j in range(2)]
    found = parts.assign(pictures, pictures, options())
    assert not found.own and not found.leaks
    counts = collections.Counter((found.parts[case(p.subject)], p.labels) for p in pictures)
    assert counts == {
        ("test", (1,)): 10,
        ("test", (0,)): 30,
        ("validation", (1,)): 6,
        ("validation", (0,)): 18,
        ("train", (1,)): 24,
        ("train", (0,)): 72,
    }


def own_split() -> list[Picture]:
    rows = [
        *(("test", f"t{i}", f"s{i}") for i in range(4)),
        *(("train", f"n{i}", f"r{i}") for i in range(10)),
        # Three leaks: most in train, most in test, as many in both.
        ("train", "x0", "x"),
        ("train", "x1", "x"),
        ("test", "x2", "x"),
        ("test", "y0", "y"),
        ("test", "y1", "y"),
        ("train", "y2", "y"),
        ("train", "z0", "z"),
        ("test", "z1", "z"),
    ]
    return [picture(name, subject, len(name) % 2, split) for split, name, subject in rows]


def test_an_own_split_is_kept_and_its_leaks_are_mended():
    pictures = own_split()
    found = parts.assign(pictures, pictures, options())
    assert found.own
    part = {p.name: found.parts[case(p.subject)] for p in pictures}
    assert all(part[f"t{i}"] == "test" for i in range(4))
    assert {part[f"n{i}"] for i in range(10)} <= {"train", "validation"}
    assert list(found.parts.values()).count("validation") == 2  # of 11
    assert {part[f"x{i}"] for i in range(3)} <= {"train", "validation"}
    assert {part[name] for name in ("y0", "y1", "y2", "z0", "z1")} == {"test"}
    leaks = {leak["subject"]: leak for leak in found.leaks}
    assert leaks[case("x")] == {
        "subject": case("x"),
        "images": {"test": 1, "train": 2},
        "now": "train",
        "moved": [case("x2")],
        "repeat": False,
    }
    assert leaks[case("y")]["moved"] == [case("y2")]
    assert leaks[case("z")]["now"] == "test"


def by_image(**counts: int) -> list[Picture]:
    """Ten persons whose images were dealt to the parts one by one."""
    places = [part for part, count in counts.items() for _ in range(count)]
    return [
        picture(f"p{person}.{number}", f"p{person}", person % 2, part)
        for person in range(10)
        for number, part in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("counts", "empty", "said"),
    [
        ({"train": 7, "validation": 1, "test": 2}, "test", 20),
        ({"train": 1, "validation": 1, "test": 2}, "train", 10),
    ],
)
def test_a_split_of_which_mending_leaves_nothing_is_refused(counts, empty, said):
    pictures = by_image(**counts)
    with pytest.raises(
        UserError, match=f"10 subjects in more .* none of {said} images stay in its {empty} part"
    ) as caught:
        parts.assign(pictures, pictures, options())
    assert "--noown_split" in str(caught.value)


def test_a_validation_part_that_mending_empties_is_drawn_again(caplog):
    own = [picture(f"t{i}", f"t{i}", i % 2, "test") for i in range(4)]
    pictures = [*own, *by_image(train=3, validation=1)]
    found = parts.assign(pictures, pictures, options())
    counts = collections.Counter(found.parts.values())
    assert counts == {"test": 4, "train": 8, "validation": 2} and len(found.leaks) == 10
    assert "its validation part shrinks from 10 images to 0 (others are drawn" in caplog.text


def test_a_part_that_shrinks_by_more_than_half_is_named(caplog):
    own = [picture(f"t{i}", f"t{i}", i % 2, "test") for i in range(9)]
    pictures = [*own, *by_image(train=2, test=1)]
    found = parts.assign(pictures, pictures, options())
    assert list(found.parts.values()).count("test") == 9
    assert "its test part shrinks from 19 images to 9: --noown_split" in caplog.text
    caplog.clear()
    more = [*pictures, picture("t9", "t9", 0, "test")]
    parts.assign(more, more, options())
    assert "shrinks" not in caplog.text


def test_a_leak_through_a_repeated_image_is_told_from_that_of_a_person():
    pictures = [p for p in own_split() if p.name[0] in "tn"]
    same = Repeats([[case("t0"), case("n0")]], [])
    found = parts.assign(pictures, repeats.together(pictures, same, KEY), options())
    (leak,) = found.leaks
    assert leak["repeat"] and leak["moved"] == [case("n0")] and leak["now"] == "test"


def test_a_validation_part_of_its_own_is_kept():
    pictures = [
        picture(f"{split}{i}", f"{split}{i}", 0, split)
        for split in ("train", "validation", "test")
        for i in range(3)
    ]
    found = parts.assign(pictures, pictures, options())
    assert all(found.parts[case(p.subject)] == p.split for p in pictures)


@pytest.mark.parametrize(
    ("pictures", "strict", "reason"),
    [
        (own_split(), True, "3 subjects in more than one part"),
        ([*own_split(), picture("new", "new")], False, r"1 images have no split \(new\)"),
        ([picture("a", "a", 0, "train")], False, "no test part"),
        ([picture("a", "a", 0, "test")], False, "no train part"),
    ],
)
def test_own_splits_that_cannot_be(pictures, strict, reason):
    with pytest.raises(UserError, match=reason):
        parts.assign(pictures, pictures, options(strict=strict))


def test_every_class_must_be_learnt(caplog):
    pictures = [picture("a", "a", 0), picture("b", "b", 1), picture("c", "c", 1)]
    split = {"a": "train", "b": "test", "c": "test"}
    found = parts.Assigned({case(name): part for name, part in split.items()}, False, [])
    with pytest.raises(UserError, match=r"No image of class 'ill' is in the training part \(2 im"):
        parts.check(pictures, found, ("well", "ill"), KEY)
    found.parts[case("b")] = "train"
    parts.check(pictures, found, ("well", "ill"), KEY)
    assert "No image of class 'well' is in the test part." in caplog.text
    with pytest.raises(UserError, match="no image of class 'dead' that can be used"):
        parts.check(pictures, found, ("well", "ill", "dead"), KEY)
    everything = parts.Assigned({case(p.subject): "test" for p in pictures}, False, [])
    with pytest.raises(UserError, match="No image is in the training part"):
        parts.check(pictures, everything, ("well", "ill", "dead"), KEY)
    parts.check(pictures, everything, ("well", "ill", "dead"), KEY, divided=False)
    assert "No image of class 'dead' is in the test part." in caplog.text
