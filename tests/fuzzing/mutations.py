"""Ways in which files go wrong: by accident, by broken software, on purpose."""

import re
from collections.abc import Callable

import numpy as np

HEADER = 600  # most formats say sizes, types and offsets within so many bytes
EXTREMES = (b"\xff", b"\x00", b"\x7f", b"\x80")
NUMBERS = (b"-1", b"0", b"nan", b"1e999", b"99999999999999999999", b"0x10", b"", b"1;DROP")
NAMES = (b"../../../etc/passwd", b"/etc/passwd", b"\x00", b"CON", b"a" * 5000, b"\xff\xfe")


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy that was interrupted."""
    return content[: int(rng.integers(0, max(len(content), 1)))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits turned, half of the times among the first bytes."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        if found:
            found[_place(len(found), rng)] ^= 1 << int(rng.integers(8))
    return bytes(found)


def overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    """A number of one to eight bytes that became the largest, the smallest or none."""
    width = int(rng.choice([1, 2, 4, 8]))
    start = _place(len(content), rng)
    filler = EXTREMES[int(rng.integers(len(EXTREMES)))] * width
    return content[:start] + filler + content[start + width :]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """A part of it lost."""
    start = _place(len(content), rng)
    return content[:start] + content[start + int(rng.integers(1, 200)) :]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    """A part of it twice."""
    start = _place(len(content), rng)
    end = start + int(rng.integers(1, 200))
    return content[:end] + content[start:]


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of a disk that was never written."""
    start, length = _place(len(content), rng), int(rng.integers(1, 4096))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def random(content: bytes, rng: np.random.Generator) -> bytes:
    """Something else under this name."""
    return rng.bytes(int(rng.integers(0, 3000)))


def renumbered(content: bytes, rng: np.random.Generator) -> bytes:
    """A number that stands in it as text became another one, or none."""
    return _replaced(content, rb"-?\d+(?:\.\d+)?", NUMBERS, rng)


def renamed(content: bytes, rng: np.random.Generator) -> bytes:
    """A word in it became a name that leads elsewhere, is no text, or is far too long."""
    return _replaced(content, rb"[A-Za-z_][\w./-]{3,}", NAMES, rng)


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    truncated,
    flipped,
    flipped,
    overwritten,
    overwritten,
    cut,
    doubled,
    zeroed,
    random,
    renumbered,
    renamed,
)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three mutations, one after the other."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        content = MUTATIONS[int(rng.integers(len(MUTATIONS)))](content, rng)
    return content


def _place(length: int, rng: np.random.Generator) -> int:
    near = min(length, HEADER) if rng.random() < 0.5 else length
    return int(rng.integers(max(near, 1)))


def _replaced(content: bytes, pattern: bytes, choices, rng: np.random.Generator) -> bytes:
    found = list(re.finditer(pattern, content[:20_000]))
    if not found:
        return content
    chosen = found[int(rng.integers(len(found)))]
    new = choices[int(rng.integers(len(choices)))]
    return content[: chosen.start()] + new + content[chosen.end() :]
