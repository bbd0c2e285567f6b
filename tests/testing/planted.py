"""Identifiers planted wherever a user's files have room for them, and the search for them.

Names of files and folders hold :data:`NAME`, everything within files :data:`MARK`: what a person
gives on the command line may be said to that person, what stands in a file may not even be that.
"""

import io
import pathlib
import re
import zipfile
import zlib

import av
import numpy as np
import pydicom
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom.datadict import DicomDictionary

NAME = "QzJwPatient"
MARK = "ZqXjWvKp"  # too long to turn up in compressed bytes by chance
ROOT = "1.2.276.0.7230010.99"  # the same of identifiers that are numbers
TEXTS = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
# Without these no file is a readable image.
NEEDED = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality", "PhotometricInterpretation",
    "RescaleType", "DataSetType",
)  # fmt: skip


def dicom(path: pathlib.Path, person: object, every: bool = True) -> int:
    """Mark the text elements of a file, and with ``every`` all that the standard has."""
    data = pydicom.dcmread(path)
    known = {
        tag: vr
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
        if keyword not in NEEDED and not retired and 0x0008 <= tag >> 16 < 0x7000
    }
    count = 1
    for tag, vr in known.items():
        if tag in data or every:
            if vr in TEXTS:
                data.add_new(tag, vr, f"{MARK}{tag:08X}{person}")
            elif vr == "UI":
                data.add_new(tag, vr, f"{ROOT}.{tag}.{person}")
            count += vr in TEXTS or vr == "UI"
    # Slices are told apart by this one.
    data.SOPInstanceUID = f"{ROOT}.1.{person}.{int(data.get('InstanceNumber') or 0)}"
    block = data.private_block(0x0011, f"{MARK} PRIVATE", create=True)
    block.add_new(1, "LO", f"{MARK}PRIVATE{person}")
    data.save_as(path)
    return count


def picture(path: pathlib.Path, pixels: np.ndarray, person: object) -> int:
    """Write a PNG, JPEG or TIFF with texts in its chunks, its EXIF block or its tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, text = Image.fromarray(pixels), f"{MARK} text {person}"
    exif = Image.Exif()
    # ImageDescription, Artist, Copyright, HostComputer, DateTime, XPAuthor
    tags = (270, 315, 33432, 316, 306)
    for tag in tags:
        exif[tag] = text
    if path.suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Patient", text)
        chunks.add_text("Comment", text, zip=True)
        chunks.add_itxt("Author", text)
        image.save(path, pnginfo=chunks, exif=exif)
        return 3 + len(tags)
    if path.suffix == ".jpg":
        image.save(path, exif=exif, comment=text.encode(), quality=95)
        return 1 + len(tags)
    table = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (*tags, 305, 285):  # also Software, PageName
        table[tag] = text
    image.save(path, tiffinfo=table)
    return len(tags) + 2


def video(source: pathlib.Path, target: pathlib.Path, person: object) -> int:
    """Copy a video's stream to a container with texts of its own."""
    texts = dict.fromkeys(
        ("title", "artist", "comment", "description", "copyright", "synopsis", "show"),
        f"{MARK} video {person}",
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(texts)
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    return len(texts)


def nifti(path: pathlib.Path, voxels: np.ndarray, lps: np.ndarray, person: object) -> int:
    """Write voxels (Z, Y, X) with the header's texts and an extension."""
    import nibabel

    image = nibabel.Nifti1Image(voxels.T, np.diag([-1, -1, 1, 1]) @ lps)
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[name] = f"{MARK}{person}".encode()[: 10 if name == "db_name" else 16]
    image.header.extensions.append(
        nibabel.nifti1.Nifti1Extension("comment", f"{MARK} extension {person}".encode())
    )
    nibabel.save(image, path)
    return 5


def nrrd(path: pathlib.Path, voxels: np.ndarray, lps: np.ndarray, person: object) -> int:
    """Write voxels (Z, Y, X) with fields and a value of its own."""
    import nrrd as library

    text = f"{MARK} field {person}"
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "content": text,
        "PatientName": text,  # fields that the format does not know are key/value pairs
        "old comment": text,
    }
    library.write(str(path), voxels.T, header)
    return 3


def metaimage(path: pathlib.Path, voxels: np.ndarray, lps: np.ndarray, person: object) -> int:
    """Write voxels (Z, Y, X) with a comment, a name and a field of its own."""
    from tests.data_prep.readers import test_metaimage

    text = f"{MARK} field {person}"
    fields = {"Comment": text, "Name": text, "PatientName": text, "AcquisitionDate": text}
    test_metaimage.write(path, voxels, lps, **fields)
    return len(fields)


def texts(content: bytes):
    """The bytes of a file and of what lies compressed in them."""
    yield content
    for start in re.finditer(rb"stream\r?\n", content):  # of a PDF
        try:
            yield zlib.decompressobj().decompress(content[start.end() :])
        except zlib.error:
            continue
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from texts(archive.read(name))
    for start in re.finditer(b"\x89PNG\r\n", content):  # also within records and event files
        try:
            with Image.open(io.BytesIO(content[start.start() :])) as image:
                image.load()
                yield repr(image.info).encode()
        except (OSError, SyntaxError, ValueError):
            continue


def found(root: pathlib.Path, secrets) -> tuple[int, list[tuple[str, str]]]:
    """Number of files below ``root``, and (file, secret) wherever one is in a name or a content.

    Secrets are looked for as they are, in lower case and as UTF-16.
    """
    forms = {
        form: secret
        for secret in secrets
        for form in (secret.encode(), secret.lower().encode(), secret.encode("utf-16-le"))
    }
    hits, count = [], 0
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        hits += [(name, secret) for form, secret in forms.items() if form in name.encode()]
        if not path.is_file():
            continue
        count += 1
        for content in texts(path.read_bytes()):
            hits += [(name, secret) for form, secret in forms.items() if form in content]
    return count, hits
