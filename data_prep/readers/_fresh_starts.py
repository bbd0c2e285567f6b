"""Packets of a video from which a decoder needs nothing that lies before."""

from collections.abc import Callable

INTRA_ONLY = {"mjpeg", "prores", "dnxhd", "dvvideo", "huffyuv", "ffvhuff", "rawvideo", "png"}
KEY_IS_START = {"vp8", "vp9"}


def never(packet) -> bool:
    """The test of a stream in which no packet is a fresh start for certain."""
    del packet
    return False


def test(context) -> Callable[..., bool]:
    """Test of a packet: does decoding from it on need nothing before it?"""
    name, extra = context.name, context.extradata or b""
    if name in INTRA_ONLY:
        return lambda packet: True
    if name in KEY_IS_START or name.startswith("libvpx"):
        return lambda packet: packet.is_keyframe
    # With parameter sets inside the stream (extra data not of form 1), a start may lack its own.
    if name == "h264" and len(extra) > 4 and extra[0] == 1:
        size = (extra[4] & 3) + 1
        return lambda packet: packet.is_keyframe and 5 in _nal_types(packet, size, 0, 0x1F)
    if name == "hevc" and len(extra) > 21 and extra[0] == 1:
        size = (extra[21] & 3) + 1
        return lambda packet: (
            packet.is_keyframe and not {19, 20}.isdisjoint(_nal_types(packet, size, 1, 0x3F))
        )
    return never


def _nal_types(packet, size: int, shift: int, bits: int) -> set[int]:
    """Types of the units in a packet, each preceded by its length in ``size`` bytes."""
    data, place, found = bytes(packet), 0, set()
    while place + size < len(data):
        length = int.from_bytes(data[place : place + size], "big")
        found.add(data[place + size] >> shift & bits)
        place += size + length
    return found
