"""Nothing that says who a patient is leaves the raw folder: every DICOM text tag is planted."""

import io
import re
import subprocess
import sys
import zipfile
import zlib

import pydicom
import pytest
from PIL import Image
from pydicom.datadict import DicomDictionary

from data_prep.phantoms import _dicom
from data_prep.phantoms import pe as phantom
from tests.testing import networks
from tests.testing.drive_main import Driver

PATIENTS = 4
MARK = "ZqXjWvKp"  # in every planted text; too long to turn up in compressed bytes by chance
ROOT = "1.2.276.0.7230010.99"  # the same of identifiers, which are numbers
TEXTS = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
# Without these no file is a readable CT slice.
NEEDED = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality", "PhotometricInterpretation",
    "RescaleType", "DataSetType",
)  # fmt: skip


def plant(path, patient, every):
    """Mark the text elements of a file, and with ``every`` all that the standard has."""
    data = pydicom.dcmread(path)
    known = {
        tag: vr
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
        if keyword not in NEEDED and not retired and 0x0008 <= tag >> 16 < 0x7000
    }
    for tag, vr in known.items():
        if tag in data or every:
            if vr in TEXTS:
                data.add_new(tag, vr, f"{MARK}{tag:08X}{patient}")
            elif vr == "UI":
                data.add_new(tag, vr, f"{ROOT}.{tag}.{patient}")
    # Slices are told apart by this one.
    data.SOPInstanceUID = f"{ROOT}.1.{patient}.{data.InstanceNumber}"
    block = data.private_block(0x0011, f"{MARK} PRIVATE", create=True)
    block.add_new(1, "LO", f"{MARK}PRIVATE{patient}")
    data.save_as(path)


def texts(content):
    """The bytes of a file and of what lies compressed in them."""
    yield content
    for start in re.finditer(rb"stream\r?\n", content):  # of a PDF
        try:
            yield zlib.decompressobj().decompress(content[start.end() :])
        except zlib.error:
            continue
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as image:
            yield repr(image.info).encode()


@pytest.mark.slow
def test_no_identifier_reaches_any_output(tmp_path, monkeypatch):
    # Dates and numbers that are none are written too: a reader must not let them through either.
    checks = pydicom.config.settings
    monkeypatch.setattr(checks, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(checks, "reading_validation_mode", pydicom.config.IGNORE)
    raw = tmp_path / "raw"
    phantom.generate(raw, seed=1, patients=PATIENTS)
    for patient in range(PATIENTS):
        name = _dicom.draw_person(1, patient).folder
        for count, path in enumerate(sorted((raw / name).iterdir())):
            plant(path, patient, every=count % 20 == 0)
        for path in raw.glob(f"{name}*"):
            path.rename(path.with_name(path.name.replace(name, f"{MARK}_{patient}")))
    planted = b"".join(path.read_bytes() for path in raw.rglob("*") if path.is_file())
    assert planted.count(MARK.encode()) > 10_000 and planted.count(ROOT.encode()) > 1000

    data, run, results = (tmp_path / "out" / name for name in ("data", "run", "results"))
    settings = ("--patch=32", "--top_k=40", "--patches_per_candidate=2", "--test_patches=1")
    where = (f"--input={raw}", f"--output={data}", "--workers=1")
    subprocess.run([sys.executable, "-m", "data_prep.pe", *where, *settings], check=True)
    driver = Driver(MEDXFER_CACHE=str(tmp_path / "out" / "cache"))
    try:
        for line in (
            ("--app=pe", f"--model={networks.NAME}", "--weights=none", "--tune=scratch",
             "--epochs=1", f"--data={data}", f"--run={run}"),
            ("--mode=export", f"--run={run}"),
            ("--mode=predict", f"--run={run}", f"--input={raw}", f"--output={results}"),
        ):  # fmt: skip
            done = driver.call(*line)
            assert done.status == 0, done.err
    finally:
        driver.close()

    assert len(list(results.glob("*.json"))) == PATIENTS + 1
    assert list(run.glob("export/pe/*/saved_model.pb")) and (run / "report.html").is_file()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 40
    for path in written:
        assert MARK not in str(path.relative_to(tmp_path)), path
        for content in texts(path.read_bytes()):
            for secret in (MARK, ROOT, str(raw), *phantom.identifiers(1, PATIENTS)):
                assert secret.encode() not in content, (path.name, secret)
