"""What somebody who means harm would send: bombs, links, paths, pickles that run code.

``BOMBS``: family -> functions that turn a good input into one that claims or unpacks to gigabytes,
leads elsewhere or runs code. Each gets the folder and the good files of the family. Beside the
folder lies ``outside``, where nothing may be opened.
"""

import ctypes
import functools
import gzip
import io
import os
import pathlib
import pickle
import re
import struct
import zipfile
import zlib

import numpy as np

HUGE = 60_000  # pixels a side: 3.6 GB in grey
ZEROS = 3 << 29  # bytes that a bomb unpacks to, above the limit of the process that reads it
_PIECE = bytes(1 << 20)

#: A file that appears if anything that was read ran code.
RAN = "code-was-run"


class Runs:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, place: pathlib.Path) -> None:
        self._place = place

    def __reduce__(self):
        return os.mkdir, (str(self._place),)


@functools.cache
def _deflated(length: int, wbits: int = -15) -> bytes:
    """So many zeros, packed."""
    packer = zlib.compressobj(1, wbits=wbits)
    parts = [packer.compress(_PIECE) for _ in range(length >> 20)]
    return b"".join([*parts, packer.flush()])


def png(root, paths):
    """A tiny file of 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", HUGE, HUGE, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", _deflated(64 << 20, 15)) + chunk(b"IEND", b"")
    for path in paths:
        if path.suffix == ".png":
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def png_text(root, paths):
    """A good image with a compressed text of gigabytes."""
    text = b"Comment\0\0" + _deflated(ZEROS, 15)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    for path in paths:
        if path.suffix == ".png":
            good = path.read_bytes()
            path.write_bytes(good[:33] + chunk + good[33:])


def jpeg(root, paths):
    """Height and width in the frame header at their largest."""
    for path in paths:
        if path.suffix == ".jpg":
            content = bytearray(path.read_bytes())
            for place in [m.start() for m in re.finditer(rb"\xff[\xc0-\xc2]\x00", bytes(content))]:
                content[place + 5 : place + 9] = b"\xff\xff\xff\xff"
            path.write_bytes(content)


def bmp(root, paths):
    """Width and height of 60,000."""
    for path in paths:
        if path.suffix == ".bmp":
            content = bytearray(path.read_bytes())
            content[18:26] = struct.pack("<ii", HUGE, HUGE)
            path.write_bytes(content)


def tiff(root, paths):
    """One strip of 60,000 x 60,000 pixels, deflated."""
    packed = _deflated(64 << 20, 15)
    entries = [
        (256, 4, HUGE), (257, 4, HUGE), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 4, HUGE), (279, 4, len(packed)),
    ]  # fmt: skip
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + table + bytes(4)
    for path in paths:
        if path.suffix.lower() in (".tif", ".tiff", ".cri"):
            path.write_bytes(content)


def matlab(root, paths):
    """A compressed variable of gigabytes."""
    body = _deflated(ZEROS, 15)
    for path in paths:
        if path.suffix == ".scl":
            content = path.read_bytes()[:128] + struct.pack("<II", 15, len(body)) + body
            path.write_bytes(content)


def nifti(root, paths):
    """A header of 30,000 x 30,000 x 30,000 voxels over zeros without end."""
    for path in paths:
        zipped = path.suffix == ".gz"
        content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
        content[42:48] = struct.pack("<hhh", 30_000, 30_000, 30_000)
        body = bytes(content)
        if zipped:
            buffer = io.BytesIO()
            with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
                file.write(body)
                for _ in range(256):
                    file.write(_PIECE)
            body = buffer.getvalue()
        path.write_bytes(body)


def nrrd(root, paths):
    """Sizes of 30,000 in the header, zeros behind it."""
    (path,) = paths
    header, _, _ = path.read_bytes().partition(b"\n\n")
    header = re.sub(rb"sizes: .*", b"sizes: 30000 30000 30000", header)
    path.write_bytes(header + b"\n\n" + _deflated(256 << 20, 31))


def metaimage(root, paths):
    """DimSize of 30,000 in the header, zeros behind it."""
    (path,) = paths
    header, _, _ = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    header = re.sub(rb"DimSize = .*", b"DimSize = 30000 30000 30000", header)
    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + _deflated(256 << 20, 15))


def metaimage_elsewhere(root, paths):
    """The voxels are said to lie in a file outside."""
    for place in ("../outside/secret", "/etc/passwd"):
        (path,) = paths
        content = path.read_bytes()
        path.write_bytes(content.replace(b"= LOCAL\n", f"= {place}\n".encode()))


def nrrd_elsewhere(root, paths):
    """The voxels are said to lie in a file outside."""
    (path,) = paths
    header, _, rest = path.read_bytes().partition(b"\n\n")
    path.with_suffix(".nhdr").write_bytes(header + b"\ndata file: ../outside/secret\n\n")
    path.unlink()


def dicom_size(root, paths):
    """65,535 rows, columns and many frames."""
    import pydicom

    for path in paths:
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = 65_535
        if "NumberOfFrames" in data:
            data.NumberOfFrames = 1_000_000
        data.save_as(path)


def dicom_deflated(root, paths):
    """A deflated file of gigabytes."""
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    for path in paths:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
        content = path.read_bytes()
        meta = 144 + struct.unpack("<I", content[140:144])[0]
        path.write_bytes(content[:meta] + _deflated(ZEROS))


def _npz(path: pathlib.Path, shapes: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Arrays of zeros, packed a thousand times; written piece by piece."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (shape, kind) in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                about = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, about)
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
                for _ in range(size >> 20):
                    file.write(_PIECE)
                file.write(_PIECE[: size % (1 << 20)])


def npz_images(root, paths):
    """Four million images of nothing."""
    count = ZEROS // 784
    shapes = {"train_images": ((count, 28, 28), "|u1"), "train_labels": ((count,), "|u1")}
    _npz(paths[0], shapes)


def npz_labels(root, paths):
    """Labels of gigabytes for a few images."""
    _npz(paths[0], {"train_images": ((8, 28, 28), "|u1"), "train_labels": ((8, ZEROS // 8), "|u1")})


def npz_pickle(root, paths):
    """Labels that run code when they are unpickled."""
    np.savez(
        paths[0],
        train_images=np.zeros((8, 28, 28), np.uint8),
        train_labels=np.array([Runs(root.parent / RAN)] * 8, dtype=object),
    )


def every_array_a_pickle(root, paths):
    """All arrays of an archive run code when they are unpickled."""
    with np.load(paths[0]) as file:
        names = file.files
    code = np.array([Runs(root.parent / RAN)], dtype=object)
    np.savez(paths[0], **dict.fromkeys(names, code))


def every_array_huge(root, paths):
    """All arrays of an archive unpack to gigabytes."""
    with np.load(paths[0]) as file:
        names = file.files
    _npz(paths[0], {name: ((ZEROS // 4,), "<f4") for name in names[:1]})


def pickle_instead(root, paths):
    """A pickle that runs code under the name of the weights."""
    paths[0].write_bytes(pickle.dumps({"w": Runs(root.parent / RAN)}, protocol=2))


def torch_zip(root, paths):
    """A state dict that runs code."""
    from tests.medxfer.weights import writers

    pickled = pickle.dumps({"fc.weight": Runs(root.parent / RAN)}, protocol=2)
    writers.torch_zip(paths[0], None, [], pickled)


def torch_deflated(root, paths):
    """The members of the archive unpack to gigabytes each."""
    with zipfile.ZipFile(paths[0]) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(paths[0], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names[:2]:
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(ZEROS >> 20):
                    file.write(_PIECE)


def keras_members(root, paths):
    """Members of the archive that lead out of it, and a layer that runs code."""
    with zipfile.ZipFile(paths[0], "a") as archive:
        archive.writestr("../outside-by-zip", b"x")
        archive.writestr(
            "config.json",
            '{"class_name": "Lambda", "config": {"function": ["__import__(\'os\').mkdir(\'%s\')"]}}'
            % (root.parent / RAN),
        )


def hdf5_elsewhere(root, paths):
    """Every group is a link to another file."""
    import h5py

    with h5py.File(paths[0], "r+") as file:
        for name in list(file):
            del file[name]
            file[name] = h5py.ExternalLink("../outside/secret", "/")


def hdf5_huge(root, paths):
    """Every array is one of 4 TB, nothing of which was written."""
    import h5py

    found = []
    with h5py.File(paths[0], "r+") as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        for name in found:
            del file[name]
            file.create_dataset(name, (1 << 20, 1 << 20), "<f4", chunks=(1 << 10, 1 << 10))


def paths_in_a_table(root, paths):
    """Every name in the table leads out."""
    (path,) = paths
    head, *rows = path.read_text().splitlines()
    places = ("../outside/secret.png", "/etc/passwd", "..\\outside\\secret.png", "a\\..\\..\\b.png")
    new = []
    for row, place in zip(rows, places * 9, strict=False):
        new.append(",".join([place, *row.split(",")[1:]]))
    path.write_text("\n".join([head, *new]) + "\n")


def long_table(root, paths):
    """A row of 64 MB."""
    (path,) = paths
    with path.open("a") as file:
        for _ in range(64):
            file.write("a," * (1 << 19))


def deep_json(root, paths):
    """A hundred thousand brackets within each other."""
    (path,) = (path for path in paths if path.suffix == ".json")
    path.write_text("[" * 100_000 + "]" * 100_000)


def long_number(root, paths):
    """A number of a million digits."""
    (path,) = (path for path in paths if path.suffix == ".json")
    content = path.read_text()
    path.write_text(re.sub(r"\d+(\.\d+)?", "9" * 1_000_000, content, count=1))


def video_size(root, paths):
    """A raw video of 60,000 x 60,000 pixels, by its header."""
    for path in paths:
        content = path.read_bytes()
        place = content.find(b"strf") + 8
        if place > 8:
            size = struct.pack("<ii", HUGE, HUGE)
            content = content[: place + 4] + size + content[place + 12 :]
            path.write_bytes(content.replace(b"FMP4", b"DIB "))


BOMBS = {
    "png": (png, png_text),
    "jpeg": (jpeg,),
    "bmp": (bmp,),
    "tiff": (tiff,),
    "pictures": (png, png_text, jpeg, bmp, tiff),
    "cyprus": (tiff, matlab),
    "cubs": (tiff,),
    "nifti": (nifti,),
    "nifti_gzip": (nifti,),
    "nrrd": (nrrd, nrrd_elsewhere),
    "metaimage": (metaimage, metaimage_elsewhere),
    "dicom_ct": (dicom_size, dicom_deflated),
    "dicom_ultrasound": (dicom_size, dicom_deflated),
    "pictures_dicom": (dicom_size, dicom_deflated),
    "pictures_npz": (npz_images, npz_labels, npz_pickle),
    "pictures_table": (paths_in_a_table, long_table),
    "frames_table": (paths_in_a_table, long_table),
    "frame_labels": (paths_in_a_table, long_table),
    "cyprus_json": (deep_json, long_number),
    "kvasir_json": (deep_json, long_number),
    "sun_json": (deep_json, long_number),
    "settings": (deep_json, long_number),
    "detector": (every_array_a_pickle, every_array_huge),
    "weights_ours.npz": (every_array_a_pickle, every_array_huge, pickle_instead),
    "weights_zip.pth": (torch_zip, torch_deflated, pickle_instead),
    "weights_old.pth": (pickle_instead,),
    "weights_keras.keras": (keras_members, torch_deflated),
    "weights_keras.weights.h5": (hdf5_elsewhere, hdf5_huge),
    "video_avi": (video_size,),
}


class Outside:
    """A folder in which whatever is opened, by any library, is noticed (Linux: inotify)."""

    def __init__(self, place: pathlib.Path) -> None:
        place.mkdir()
        self.place = place
        for name in ("secret", "secret.png"):
            (place / name).write_bytes(b"not yours")
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK)
        opened = 0x20  # IN_OPEN
        assert libc.inotify_add_watch(self._events, os.fsencode(place), opened) > 0

    def opened(self) -> bool:
        """Whether anything was opened since the last call."""
        try:
            return bool(os.read(self._events, 1 << 16))
        except BlockingIOError:
            return False


def link(path: pathlib.Path, content: bytes, place: pathlib.Path) -> None:
    """Let a file be a link to an equal one elsewhere."""
    path.unlink()
    target = place / path.name
    target.write_bytes(content)
    path.symlink_to(target)


#: Families whose folder somebody else filled, so that links in it may lead anywhere.
FOLDERS = (
    "video", "video_avi", "frame_labels", "png", "jpeg", "tiff", "bmp", "frames_table", "boxes",
    "cyprus", "cubs", "boundaries", "dicom_ultrasound", "dicom_ct", "nifti", "nifti_gzip", "nrrd",
    "metaimage", "pictures", "pictures_dicom", "pictures_table", "pictures_npz", "cyprus_json",
    "kvasir_json", "sun_json",
)  # fmt: skip
