"""Arrays in one npz file, as MedMNIST has them: ``train_images``, ``train_labels``, ``val_...``.

Images are (N, H, W) or (N, H, W, 3); labels are class numbers from 0, (N,) or (N, 1), or 0 and 1
for each class, (N, classes), where an image may have several. ``train_subjects`` is read if it is
there. Nothing is ever unpickled: an archive could run any code that way.
"""

import hashlib
import math
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.errors import UserError
from data_prep.readers import _pictures
from data_prep.readers._classification import Detected, Entry, Options, Picture
from data_prep.readers._images import Unusable

KIND = "classification"
LAYOUT = "one npz file with train_images, train_labels, val_..., test_..."
ORDER = 1

PARTS = {"train": "train", "val": "validation", "test": "test"}
MAX_CLASSES = 10_000
_CHUNK = 1 << 24  # bytes
#: What reading a damaged archive raises, the last one for a header that NumPy cannot parse.
_DAMAGED = (
    EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
# Unpacked bytes from which an array that is so many times its packed size holds nothing but zeros.
_LARGE, _DENSE = 1 << 30, 200


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> Detected | None:
    """Read labels and the headers of the images.

    Raises
    ------
    UserError
        If there are two npz files, arrays are missing, do not fit each other or hold Python
        objects, or images are too small or too large.
    """
    del options
    found = [path for path in files if path.parent == root and path.suffix.lower() == ".npz"]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(
            f"{root} holds {len(found)} npz files: give one of them, as --input={found[0]}."
        )
    (path,) = found
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is no regular file: copy the npz file in.")
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {
                pathlib.PurePosixPath(name).stem: _header(archive, name, path)[0]
                for name in archive.namelist()
                if name.endswith(".npy")
            }
        entries, several = [], False
        for part in PARTS:
            if shapes.get(f"{part}_images", (0,))[:1] != (0,):  # a part without images is none
                own, more = _entries(path, part, shapes)
                entries, several = entries + own, several or more
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged or no npz file ({error}): copy it again.") from error
    if not entries:
        raise UserError(
            f"{path} has no arrays train_images and train_labels, only {', '.join(shapes)}."
        )
    # A number that no image has is a class without images, not one less.
    highest = max((int(label) for entry in entries for label in entry.labels), default=0)
    of_labels = (shapes[f"{p}_labels"] for p in PARTS if f"{p}_labels" in shapes)
    count = max([highest + 1, *(labels[-1] for labels in of_labels if several)])
    classes = tuple(map(str, range(count)))
    with path.open("rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    return Detected(entries, classes, several, source)


def unpack(pictures: Sequence[Picture], path: pathlib.Path, folder: pathlib.Path) -> None:
    """Write the arrays of images to files of their own, from which single images can be read.

    Parameters
    ----------
    pictures : sequence of Picture
        Whose arrays are wanted.
    path : pathlib.Path
        The npz file, or its folder.
    folder : pathlib.Path
        Made if need be; an array that is there already is kept.

    Raises
    ------
    UserError
        If the archive is damaged.
    """
    (path,) = [path] if path.is_file() else path.glob("*.[nN][pP][zZ]")
    folder.mkdir(parents=True, exist_ok=True)
    for member, source in {(picture.member, picture.source) for picture in pictures}:
        target = folder / f"{member}-{source[:16]}.npy"
        if target.exists():
            continue
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                for chunk in _content(path, member):
                    file.write(chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _content(path: pathlib.Path, member: str) -> Iterator[bytes]:
    """An array of the archive, unpacked piece by piece."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as array:
            while chunk := array.read(_CHUNK):
                yield chunk
    except _DAMAGED as error:
        raise UserError(f"{path}: {member} is damaged ({error}): copy the file again.") from error


def pixels(folder: pathlib.Path, picture: Picture) -> np.ndarray:
    """One image of an unpacked array, (H, W) or (H, W, 3).

    Raises
    ------
    Unusable
        If the array is cut off.
    """
    path = folder / f"{picture.member}-{picture.source[:16]}.npy"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(images[picture.index])
    except (OSError, ValueError) as error:
        raise Unusable("its array is damaged or cut off") from error


def _entries(path: pathlib.Path, part: str, shapes: dict) -> tuple[list[Entry], bool]:
    """Images of one part, and whether they may have several labels."""
    shape = shapes[f"{part}_images"]
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
        raise UserError(
            f"{path}: {part}_images has the shape {shape}: it must be (N, H, W) or (N, H, W, 3)."
        )
    try:
        _pictures.check_size(*shape[1:3])
    except Unusable as error:
        raise UserError(f"{path}: {part}_images: {error}.") from error
    labels = _small(path, f"{part}_labels", shapes)
    if labels is None or labels.ndim not in (1, 2) or len(labels) != shape[0]:
        there = "is missing" if labels is None else f"has the shape {labels.shape}"
        raise UserError(f"{path}: {part}_labels {there}: it must be one row for each image.")
    several = labels.ndim == 2 and labels.shape[1] > 1
    if labels.dtype.kind not in "iub" or labels.min(initial=0) < 0:
        raise UserError(f"{path}: {part}_labels must hold class numbers from 0.")
    numbers = labels.shape[1] if several else int(labels.max(initial=0)) + 1
    if numbers > MAX_CLASSES:
        row = "" if several else f", row {int(labels.argmax())}"
        raise UserError(
            f"{path}: {part}_labels{row} says that there are {numbers} classes, more than "
            f"{MAX_CLASSES}: number the classes from 0."
        )
    labels = labels.astype(np.int64)
    if several and labels.max(initial=0) > 1:
        raise UserError(f"{path}: {part}_labels has several columns: they must hold 0 and 1.")
    subjects = _small(path, f"{part}_subjects", shapes)
    if subjects is not None and len(subjects) != shape[0]:
        raise UserError(f"{path}: {part}_subjects must be one row for each image.")
    rows = labels.reshape(shape[0], -1)
    return [
        Entry(
            f"{part}/{number}",
            path,
            tuple(map(str, np.flatnonzero(row) if several else row.tolist())),
            f"{path}, row {number} of {part}_labels",
            "" if subjects is None else str(subjects.reshape(-1)[number]),
            PARTS[part],
            f"{part}_images",
            number,
        )
        for number, row in enumerate(rows)
    ], several


def _small(path: pathlib.Path, name: str, shapes: dict) -> np.ndarray | None:
    """An array of labels or subjects; None if there is none."""
    if name not in shapes:
        return None
    with np.load(path, allow_pickle=False) as content:
        return content[name]


def _header(
    archive: zipfile.ZipFile, name: str, path: pathlib.Path
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array.

    Raises
    ------
    UserError
        If it holds Python objects.
    """
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{name} has the unknown version {version}")
        shape, _, dtype = read(file)
        length = file.tell() + math.prod(shape) * dtype.itemsize
    info = archive.getinfo(name)
    if not dtype.hasobject and info.file_size != length:
        raise ValueError(f"{name} is cut off or longer than it says")
    if length > max(_LARGE, _DENSE * info.compress_size):
        raise ValueError(f"{name} would unpack to {length / 2**30:.0f} GiB")
    if dtype.hasobject:
        raise UserError(
            f"{path}: {pathlib.PurePosixPath(name).stem} holds pickled Python objects, which are "
            "never loaded because they can run any code: save plain numbers or text."
        )
    return shape, dtype
