"""Nothing that says who a patient is leaves the raw folder, whatever the app and the format."""

import csv
import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_prep import classify
from data_prep.phantoms import _dicom
from tests.testing import networks, planted
from tests.testing.drive_main import Driver
from tests.testing.planted import MARK, NAME, ROOT


@dataclasses.dataclass
class Planted:
    """Raw data full of identifiers, and what else must not be found."""

    app: str
    count: int = 0
    options: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    predict: tuple[str, ...] = ()  # further arguments of predicting


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: pathlib.Path, table: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def broken(path: pathlib.Path) -> int:
    """A file that cannot be read: it will be named, and not by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{MARK} broken".encode())
    return 2


def plant_cimt(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """Images of every format beside tables, with columns that nobody asked for."""
    importlib.import_module("data_prep.phantoms.cimt").generate(
        made, seed=1, subjects=7, images_per_subject=1
    )
    planted_ = Planted(
        "cimt",
        options=("--patch=17", "--patches_per_roi=10"),
        predict=("--mm_per_pixel=0.06",),
    )
    table = rows(made / "studies.csv")
    for number, row in enumerate(table):
        pixels = np.array(Image.open(made / row["image"]))
        row["image"] = f"{NAME}{number}/{NAME}{number}.{('png', 'jpg', 'tif')[number % 3]}"
        planted_.count += planted.picture(raw / row["image"], pixels, number)
        lines = (made / row["boundaries"]).read_text().splitlines()
        lines = [f"{line},{MARK}" for line in lines]  # one more column
        row["boundaries"] = f"{NAME}{number}/{NAME}{number}.csv"
        (raw / row["boundaries"]).write_text("\n".join(lines) + "\n")
        row |= {"subject": f"{MARK}s{number}", "case": f"{NAME}c{number}", "name": f"{MARK}n"}
        planted_.count += 8 + len(lines)
    planted_.count += broken(raw / f"{NAME}broken.png")
    table.append(table[0] | {"image": f"{NAME}broken.png", "case": f"{NAME}broken"})
    write(raw / "studies.csv", table)
    return planted_


def plant_cimt_dicom(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """DICOM ultrasound in which every element is a text of ours."""
    from tests.data_prep.readers import test_dicom_ultrasound

    found = Planted(
        "cimt",
        options=("--patch=17", "--patches_per_roi=10"),
        predict=("--roi=20,20,92,50",),
    )
    rng = np.random.default_rng(0)
    for number in range(7):
        path = raw / f"{NAME}{number}" / f"{NAME}{number}.dcm"
        path.parent.mkdir(parents=True)
        pixels = rng.integers(0, 256, test_dicom_ultrasound.SHAPE).astype(np.uint8)
        test_dicom_ultrasound.write(path, pixels)
        found.count += 2 + planted.dicom(path, number)
    return found


def plant_classify(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """A table of PNG, JPEG, TIFF and DICOM images."""
    from tests.data_prep.pictures import texture, write_dicom

    planted_, table = Planted("classify", options=("--side=32",)), []
    for number in range(24):
        suffix = ("png", "jpg", "tif", "dcm")[number % 4]
        place = f"{NAME}{number // 2}/{NAME}{number}.{suffix}"
        if suffix == "dcm":
            write_dicom(raw / place, texture(number))
            planted_.count += planted.dicom(raw / place, number // 2)
        else:
            planted_.count += planted.picture(raw / place, texture(number), number)
        label, subject = ("ill", "well")[number // 2 % 2], f"{MARK}s{number // 2}"
        table.append({"path": place, "label": label, "subject": subject, "nurse": f"{MARK}n"})
        planted_.count += 4
    planted_.count += broken(raw / f"{NAME}broken.png")
    table.append(table[0] | {"path": f"{NAME}broken.png"})
    write(raw / "images.csv", table)
    return planted_


def plant_polyp(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """Videos that tell much about themselves, masks with texts."""
    importlib.import_module("data_prep.phantoms.polyp").generate(made, seed=1, videos=12, frames=4)
    found = Planted(
        "polyp",
        options=(
            "--patch=32",
            "--top_k=3",
            "--patches_per_candidate=2",
            "--trees=2",
            "--test_fraction=0.3",
        ),  # fmt: skip
    )
    for number, path in enumerate(sorted(made.glob("*.mp4"))):
        found.count += 1 + planted.video(path, raw / f"{NAME}{number}.mp4", number)
        masks = raw / f"{NAME}{number}_masks"
        masks.mkdir()
        for mask in sorted((made / f"{path.stem}_masks").glob("*.png")):
            pixels = np.array(Image.open(mask))
            found.count += planted.picture(masks / mask.name, pixels, number)
    found.count += broken(raw / f"{NAME}broken.mp4")
    return found


def plant_frame(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """Videos and a table of their frames."""
    importlib.import_module("data_prep.phantoms.frame").generate(made, seed=1, videos=8, frames=14)
    found = Planted("frame", options=("--width=96", "--height=72", "--patch=32"))
    (table,) = made.glob("*.csv")
    names = {}
    for number, path in enumerate(sorted(made.glob("*.mp4"))):
        names[path.name] = f"{NAME}{number}.mp4"
        found.count += 1 + planted.video(path, raw / names[path.name], number)
    lines = [row | {"video": names[row["video"]], "doctor": f"{MARK}d"} for row in rows(table)]
    write(raw / table.name, lines)
    found.count += 2 * len(lines)
    return found


def plant_pe(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """DICOM series, every text element of the standard planted."""
    phantom = importlib.import_module("data_prep.phantoms.pe")
    phantom.generate(raw, seed=1, patients=4)
    found = Planted("pe", options=PE, others=phantom.identifiers(1, 4))
    for patient in range(4):
        name = _dicom.draw_person(1, patient).folder
        for count, path in enumerate(sorted((raw / name).iterdir())):
            found.count += planted.dicom(path, patient, every=count % 20 == 0)
        for path in raw.glob(f"{name}*"):
            path.rename(path.with_name(path.name.replace(name, f"{NAME}_{patient}")))
            found.count += 1
    return found


def plant_pe_files(made: pathlib.Path, raw: pathlib.Path) -> Planted:
    """The same volumes as NIfTI, NRRD and MetaImage with texts in their headers."""
    from data_prep.readers import _volumes

    phantom = importlib.import_module("data_prep.phantoms.pe")
    phantom.generate(made, seed=1, patients=4)
    found = Planted("pe", options=PE, others=phantom.identifiers(1, 4))
    raw.mkdir()
    writers = [
        (".nii.gz", planted.nifti), (".nrrd", planted.nrrd), (".mha", planted.metaimage),
        (".nii", planted.nifti),
    ]  # fmt: skip
    sources = {source.files[0].parent.name: source for source in _volumes.find(made)}
    labels = sorted(path for path in made.iterdir() if path.is_file())
    for number, (label, (suffix, save)) in enumerate(zip(labels, writers, strict=True)):
        folder, _, ending = label.name.partition("_label")
        volume = _volumes.read(sources[folder])
        path = raw / f"{NAME}{number}{suffix}"
        found.count += 2 + save(path, volume.hu, volume.affine, number)
        label.rename(raw / f"{NAME}{number}_label{ending}")
    return found


PE = ("--patch=32", "--top_k=40", "--patches_per_candidate=2", "--test_patches=1")
APPS = {
    "cimt": plant_cimt, "cimt_dicom": plant_cimt_dicom, "classify": plant_classify,
    "polyp": plant_polyp, "frame": plant_frame, "pe": plant_pe, "pe_files": plant_pe_files,
}  # fmt: skip


@pytest.fixture
def any_value(monkeypatch):
    """Dates and numbers that are none are written too: a reader must not let them through."""
    checks = pydicom.config.settings
    monkeypatch.setattr(checks, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(checks, "reading_validation_mode", pydicom.config.IGNORE)


def prepare(root: pathlib.Path, name: str) -> tuple[Planted, list[str]]:
    """Plant, and prepare the data from the command line; what the terminal showed."""
    raw, data = root / "raw", root / "out" / "data"
    made = APPS[name](root / "made", raw)
    (root / "out").mkdir()
    words = [f"--input={raw}", f"--output={data}", "--workers=1", *made.options]
    done = subprocess.run(
        [sys.executable, "-m", f"data_prep.{made.app}", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong = subprocess.run(  # and what an error says
        [sys.executable, "-m", f"data_prep.{made.app}", *words, "--seed=5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith("Error: ")
    return made, [done.stdout, done.stderr, wrong.stdout, wrong.stderr]


def search(root: pathlib.Path, made: Planted, said: list[str], least: int, capsys) -> None:
    """Print the tally; require that nothing is found in what was written and said."""
    count, hits = planted.found(root / "out", (MARK, NAME, ROOT, str(root / "raw"), *made.others))
    # On the terminal a file may be called by its name, which whoever sits there has given.
    hits += [("terminal", secret) for secret in (MARK, ROOT, *made.others) for text in said
             if secret in text]  # fmt: skip
    with capsys.disabled():
        print(
            f"\n  {made.app}: {made.count} identifiers planted, {count} artefacts and {len(said)} "
            f"terminal outputs searched, {len(set(hits))} found"
        )
    assert made.count > 20 and count >= least
    assert not hits, sorted(set(hits))[:20]


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
def test_no_identifier_reaches_any_output(tmp_path, name, any_value, capsys):
    made, said = prepare(tmp_path, name)
    out, raw = tmp_path / "out", tmp_path / "raw"
    data, run, results = (out / place for place in ("data", "run", "results"))
    app = f"--app={made.app}"
    driver = Driver(MEDXFER_CACHE=str(out / "cache"))
    try:
        for expected, line in (
            (0, (app, "--mode=check", f"--data={data}", f"--model={networks.NAME}",
                 "--tune=scratch")),
            (0, (app, f"--model={networks.NAME}", "--weights=none", "--tune=scratch", "--epochs=1",
                 f"--data={data}", f"--run={run}")),
            (0, ("--mode=evaluate", f"--run={run}", f"--data={data}")),
            (0, ("--mode=export", f"--run={run}", "--variants=int8")),
            (0, ("--mode=predict", f"--run={run}", f"--input={raw}", f"--output={results}",
                 *made.predict)),
            (0, (app, "--lr_find", f"--model={networks.NAME}", "--weights=none", "--tune=scratch",
                 f"--data={data}", f"--run={out / 'rates'}")),
            (2, ("--mode=predict", f"--run={run}", f"--input={raw}", f"--output={results}")),
            (2, (app, f"--data={raw}", f"--model={networks.NAME}", f"--run={out / 'none'}")),
        ):  # fmt: skip
            done = driver.call(*line)
            assert done.status == expected or (expected == 0 and "check" in line[1]), done.err
            assert "do not look like" not in done.err  # the same images that were learnt from
            said += [done.out, done.err]
    finally:
        driver.close()
    if name == "classify":  # a study's artefacts come from its runs, whatever the app
        words = [app, f"--data={data}", f"--output={out / 'study'}", f"--model={networks.NAME}",
                 "--weights=none", "--epochs=1", "--depths=fc2", "--inits=msra",
                 "--fractions=1"]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tests.testing.drive_study", *words],
            env=os.environ | {"MEDXFER_CACHE": str(out / "cache")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (out / "study" / "report.html").is_file()
        said += [done.stdout, done.stderr]
    assert list(run.glob("export/*/*/saved_model.pb")) and (run / "report.html").is_file()
    assert list(run.glob("logs/**/*tfevents*")) and list(run.glob("figures/*.pdf"))
    assert len(list(results.iterdir())) > 2
    search(tmp_path, made, said, 40, capsys)


def test_no_identifier_reaches_a_dataset(tmp_path, any_value, capsys, caplog):
    made = plant_classify(tmp_path / "made", tmp_path / "raw")
    (tmp_path / "out").mkdir()
    classify.prepare(tmp_path / "raw", tmp_path / "out" / "data", settings=classify.Settings(32))
    said = [*capsys.readouterr(), caplog.text]
    search(tmp_path, made, said, 6, capsys)


def test_what_is_hidden_is_found(tmp_path):
    for number, (suffix, mode) in enumerate((("png", "L"), ("jpg", "RGB"), ("tif", "L"))):
        pixels = np.array(Image.new(mode, (16, 16)))
        planted.picture(tmp_path / f"{number}.{suffix}", pixels, 1)
    np.savez_compressed(tmp_path / "3.npz", text=np.array(MARK), words=np.array(MARK.encode()))
    (tmp_path / "4").write_bytes(b"record" + (tmp_path / "0.png").read_bytes() + b"more")
    (tmp_path / f"{NAME}.txt").touch()
    count, hits = planted.found(tmp_path, (MARK, NAME))
    assert count == 6
    assert {name for name, _ in hits} == {
        "0.png", "1.jpg", "2.tif", "3.npz", "4", f"{NAME}.txt"
    }  # fmt: skip
