"""Parts and classes that are too small are named, counted by what was recorded and not cut."""

import pathlib

import numpy as np
import pytest

from data_prep import command, shards
from data_prep.records import Example
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym
from medxfer import check
from tests.data_prep.fake import FakeStudy

KEY = b"secret"


def made(folder: pathlib.Path, frames: dict[str, list[list[int]]], crops: int, **given):
    """Videos of a frame app: part -> of each subject the labels of its frames."""
    studies = [
        FakeStudy(f"{part}{number}", (), f"{part}{number}")
        for part, subjects in frames.items()
        for number in range(len(subjects))
    ]
    parts = {pseudonym(study.subject, KEY): study.name[:-1] for study in studies}

    def work(study):
        case, person = pseudonym(study.name, KEY), pseudonym(study.subject, KEY)
        rng = np.random.default_rng(int(case, 16))

        def examples():
            for frame, label in enumerate(frames[study.name[:-1]][int(study.name[-1])]):
                for crop in range(crops):
                    yield Example(
                        f"{case}-{frame}-{crop}",
                        rng.integers(0, 256, (16, 16), np.uint8),
                        label,
                        person,
                        case,
                        f"{case}-{frame}",
                        extras={"frame": frame},
                    )

        return StudyResult(case, person, {"patch": examples()})

    layout = shards.Layout(
        "frame", ("dull", "clear"), {"frame": "int"}, {p: (p, "patch") for p in frames}, channels=1
    )
    options = command.Options(folder, KEY, parts=parts)
    command.prepare(layout, studies, work, {}, options, **given)
    return folder


def cautions(folder, capsys) -> dict[str, list[str]]:
    """Part -> what is said of it."""
    assert check.check(str(folder), "frame")  # a caution is no problem
    found, part = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("  ") and not line.startswith("   "):
            part = line.split(":")[0].strip()
        if line.startswith("    caution: "):
            found.setdefault(part, []).append(line.removeprefix("    caution: "))
    return found


ENOUGH = [[0, 0, 1, 1]] * 5


@pytest.mark.parametrize(
    ("part", "subjects", "said"),
    [
        ("train", ENOUGH, []),
        ("validation", [*ENOUGH[:4], []], ["subjects", "dull", "clear"]),
        ("test", [[0, 0, 0, 1, 1, 1]] * 4, ["subjects"]),
        ("train", [[0, 0, 1, 1]] * 4 + [[0, 1, 1]], ["dull is shown by 9 originals"]),
        ("validation", [[0] * 9 + [1]] + [[0]] * 5, ["clear is shown by 1 original only"]),
        ("test", [[0, 0]] * 5, ["clear is shown by 0 originals"]),
    ],
)
def test_few_subjects_and_originals_are_named(tmp_path, capsys, part, subjects, said):
    frames = {"train": ENOUGH, "validation": ENOUGH, "test": ENOUGH} | {part: subjects}
    found = cautions(made(tmp_path / "data", frames, crops=6), capsys)
    assert list(found) == ([part] if said else [])
    for text, words in zip(found.get(part, []), said, strict=True):
        assert words in text


def test_copies_count_once(tmp_path, capsys):
    frames = {"train": [[0]] * 5 + [[1]] * 4, "validation": ENOUGH, "test": ENOUGH}
    case = [pseudonym(f"train{number}", KEY) for number in range(5)]
    findings = {
        "identical": [sorted(case[:2]), sorted(case[2:4])],
        "similar": [{"cases": [case[1], case[3]]}],
    }
    folder = made(tmp_path / "data", frames, 3, findings=findings)
    assert [text.split(" only")[0] for text in cautions(folder, capsys)["train"]] == [
        "dull is shown by 2 originals",
        "clear is shown by 4 originals",
    ]
