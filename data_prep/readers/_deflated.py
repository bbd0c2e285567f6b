"""DICOM files whose elements are deflated as a whole: pydicom unpacks them in memory at once."""

import io
import pathlib
import zlib
from typing import BinaryIO

from data_prep.readers._images import Unusable

LARGEST = 512 << 20  # bytes of the elements, unpacked
HEAD = 1 << 20  # of those that are looked at to find a series; pydicom takes seconds for them

_UID = b"1.2.840.10008.1.2.1.99"  # Deflated Explicit VR Little Endian, PS3.5, A.5
_META = 144  # bytes of preamble, DICM and the length of the meta elements, PS3.10, 7.1
_PIECE = 1 << 20


def require_room(path: pathlib.Path) -> None:
    """Raise Unusable for a file that unpacks to more than :data:`LARGEST` bytes.

    Raises
    ------
    Unusable
        Also if it cannot be unpacked.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        if not _begin(file):
            return
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while packed := unpacker.unconsumed_tail or file.read(_PIECE):
                size += len(unpacker.decompress(packed, _PIECE))
                if size > LARGEST:
                    raise Unusable(
                        f"its elements are deflated and unpack to more than {LARGEST >> 20} MB: "
                        "save it without compression of the whole"
                    )
                if unpacker.eof:
                    return
        except zlib.error as error:
            raise Unusable("the DICOM file is unreadable") from error


def open_head(path: pathlib.Path) -> BinaryIO:
    """The file, opened; of one that is deflated no more than the first :data:`HEAD` bytes unpacked.

    Raises
    ------
    zlib.error
        If it cannot be unpacked.
    OSError
        If it cannot be read.
    """
    file = path.open("rb")
    try:
        start = _begin(file)
        if not start:
            file.seek(0)
            return file
        with file:
            packed = file.read(HEAD)
            elements = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, HEAD)
            file.seek(0)
            packer = zlib.compressobj(0, wbits=-zlib.MAX_WBITS)
            return io.BytesIO(file.read(start) + packer.compress(elements) + packer.flush())
    except BaseException:
        file.close()
        raise


def _begin(file: BinaryIO) -> int:
    """Go to the packed elements; their place, 0 where the file is not deflated."""
    head = file.read(2048)
    if head[128:132] != b"DICM" or _UID not in head:
        return 0
    return file.seek(_META + int.from_bytes(head[_META - 4 : _META], "little"))
