"""Whether a video file is cut off or damaged, by the sizes that its container states.

Sizes, not times: a recording may begin late, pause, or lack frames that the capture card dropped,
and is whole all the same.
"""

import collections
import dataclasses
import pathlib
import struct
from typing import BinaryIO

SEGMENT, CLUSTER, GROUP, BLOCK, SIMPLE_BLOCK = 0x18538067, 0x1F43B675, 0xA0, 0xA1, 0xA3  # Matroska
NO_CONTENT = 4  # bytes of a block before its content
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
MXF_PARTITION = bytes.fromhex("060e2b34020501010d0102010102")
FLV_TAGS = (8, 9, 18)
MP4_BOXES = (
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta pnot emsg udta pdin ssix prft"
)
AVI_SLACK = 8  # bytes that writers count too much, and less than one entry of the index at the end
NO_END = (0, 0xFFFFFFFF)  # sizes of a recorder that was not stopped


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the sizes in a file say.

    Attributes
    ----------
    is_cut : bool or None
        Bytes are missing, or sizes do not fit; None where the file does not say it.
    counts : frozenset of int
        Packets of each of its streams, where they can be counted without reading them.
    """

    is_cut: bool | None = None
    counts: frozenset[int] = frozenset()


def structure(path: pathlib.Path, container: str) -> Structure:
    """Follow the sizes that a container states from the beginning of a file to its end.

    Parameters
    ----------
    path : pathlib.Path
    container : str
        FFmpeg's name of the format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if container == "mpegts":  # packets of one of the usual sizes
            return Structure(all(size % packet for packet in (188, 192, 204)))
        if "matroska" in container:
            return _matroska(file, size)
        for name, test in TESTS.items():
            if name in container.split(","):
                return Structure(test(file, size))
    return Structure()


def _mp4(file: BinaryIO, size: int) -> bool | None:
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, name, longer = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        if name not in MP4_BOXES.split():  # what a camera or an upload appended
            break
        length = longer if length == 1 else length
        if length < 8:  # 0: up to the end of the file, wherever that was
            return None
        place += length
    return place > size


def _avi(file: BinaryIO, size: int) -> bool | None:
    place = 0
    while place + 12 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":  # what other programs append
            break
        if length in NO_END:
            return None
        place += 8 + length + length % 2
    return place > size + AVI_SLACK


def _matroska(file: BinaryIO, size: int) -> Structure:
    """Elements one after the other, into the segment and its clusters.

    FFmpeg leaves out what it cannot follow, and with it frames, without a word.
    """
    place, end, counts = 0, size, collections.Counter()
    while place < end:
        file.seek(place)
        head = file.read(20)
        wide = 9 - head[0].bit_length()
        if wide > 4 or len(head) <= wide or not head[wide]:
            return Structure(True)
        name = int.from_bytes(head[:wide], "big")
        digits = 9 - head[wide].bit_length()
        length = int.from_bytes(head[wide : wide + digits], "big") & (1 << 7 * digits) - 1
        place += wide + digits
        is_open = length == (1 << 7 * digits) - 1  # live recordings do not know it
        if name == SEGMENT and not is_open:
            end = place + length
            if end > size:
                return Structure(True)
        if name in (BLOCK, SIMPLE_BLOCK) and length > NO_CONTENT:
            track = head[wide + digits]  # or its first byte, where it has more
            if track & 0x7F == 0:
                return Structure(True)
            counts[track] += 1
        if name not in (SEGMENT, CLUSTER, GROUP):
            if is_open:
                return Structure(True)
            place += length
    return Structure(place != end, frozenset(counts.values()))


def _flv(file: BinaryIO, size: int) -> bool | None:
    """The last four bytes are the size of the last tag, which says its own size, too."""
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    if length == 0 or length + 4 > size:
        return True
    file.seek(size - 4 - length)
    tag = file.read(4)
    return tag[0] & 0x1F not in FLV_TAGS or int.from_bytes(tag[1:], "big") + 11 != length


def _asf(file: BinaryIO, size: int) -> bool | None:
    head = file.read(1 << 16)
    place = head.find(ASF_PROPERTIES)
    if place < 0 or len(head) < place + 92:
        return None
    (stated,) = struct.unpack_from("<Q", head, place + 40)
    (broadcast,) = struct.unpack_from("<I", head, place + 88)
    return None if broadcast & 1 or not stated else stated > size


def _ogg(file: BinaryIO, size: int) -> bool | None:
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(27 + 255)
        if len(head) < 27 or head[:4] != b"OggS":
            return len(head) < 27
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return place > size


def _mxf(file: BinaryIO, size: int) -> bool | None:
    """The first partition says where the last one begins; 0: not known yet."""
    head = file.read(1 << 16)
    place = head.find(MXF_PARTITION)
    value = place + 17 + max(0, (head[place + 16] & 0x7F) if head[place + 16] & 0x80 else 0)
    if place < 0 or len(head) < value + 32:
        return None
    (footer,) = struct.unpack_from(">Q", head, value + 24)
    return footer >= size if footer else None


TESTS = {"mov": _mp4, "avi": _avi, "flv": _flv, "asf": _asf}
TESTS |= {"ogg": _ogg, "mxf": _mxf}
