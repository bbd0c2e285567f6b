"""Marks of a detector on cases: the input of free-response analysis."""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
    """Marks of one method on C cases (videos, volumes), and what there was to find.

    Attributes
    ----------
    scores : float64 array of shape (M,)
        Finite; higher is more suspicious.
    cases : int array of shape (M,)
        Case of every mark, 0 to C - 1.
    lesions : int array of shape (M,)
        Lesion within its case that the mark hits, or -1 for a false positive.
    images : int array of shape (C,)
        Images of every case, at least one.
    lesion_counts : int array of shape (C,)
        Lesions of every case, marked or not.
    subjects : array of shape (C,)
        Subject of every case; the bootstrap draws subjects.
    frames : int array of shape (M,), optional
        Image of every mark within its case, for JAFROC-1 of cases that have several.
    """

    scores: ArrayLike
    cases: ArrayLike
    lesions: ArrayLike
    images: ArrayLike
    lesion_counts: ArrayLike
    subjects: ArrayLike
    frames: ArrayLike | None = None

    def __post_init__(self) -> None:
        """Settle types and check.

        Raises
        ------
        ValueError
            If shapes disagree, an index is out of range or a case has no image.
        """
        for name, kind in _KINDS.items():
            if name != "frames" or self.frames is not None:
                object.__setattr__(self, name, _array(getattr(self, name), kind, name))
        object.__setattr__(self, "subjects", np.asarray(self.subjects))
        marks, cases = self.scores.shape, self.images.shape
        of_mark = [self.cases, self.lesions, *([] if self.frames is None else [self.frames])]
        if any(values.shape != marks for values in of_mark):
            raise ValueError("Scores, cases, lesions and frames must have one entry per mark.")
        if self.lesion_counts.shape != cases or self.subjects.shape != cases or not cases[0]:
            raise ValueError("Images, lesion counts and subjects must have one entry per case.")
        if not np.isfinite(self.scores).all():
            raise ValueError("Scores must be finite.")
        if (self.images < 1).any():
            case = int(np.argmax(self.images < 1))
            raise ValueError(f"Case {case} has no image: leave the case out or count its images.")
        if (self.lesion_counts < 0).any():
            raise ValueError("Lesion counts must not be negative.")
        if ((self.cases < 0) | (self.cases >= cases[0])).any():
            raise ValueError(f"A mark's case must be 0 to {cases[0] - 1}.")
        if ((self.lesions < -1) | (self.lesions >= self.lesion_counts[self.cases])).any():
            raise ValueError("A mark's lesion must be -1 or one of the lesions of its case.")
        if self.frames is not None:
            if ((self.frames < 0) | (self.frames >= self.images[self.cases])).any():
                raise ValueError("A mark's frame must be one of the images of its case.")

    @functools.cached_property
    def alarms(self) -> NDArray[np.intp]:
        """Indices of the marks that are false positives."""
        return np.flatnonzero(self.lesions < 0)

    @functools.cached_property
    def hits(self) -> NDArray[np.intp]:
        """Indices of the marks that count as true positives: the highest one of each lesion."""
        marks = np.flatnonzero(self.lesions >= 0)
        first = np.cumsum(self.lesion_counts) - self.lesion_counts
        lesion = first[self.cases[marks]] + self.lesions[marks]
        by_lesion = np.lexsort((-self.scores[marks], lesion))
        return marks[by_lesion[np.unique(lesion[by_lesion], return_index=True)[1]]]

    def by_subject(self) -> "Marks":
        """The same with all cases of a subject merged into one; subjects sorted.

        Curves and weighted statistics are not changed by it.
        """
        names, member = np.unique(self.subjects, return_inverse=True)
        order = np.argsort(member, kind="stable")
        shifts = []
        for counts in (self.lesion_counts, self.images):
            before = np.cumsum(counts[order]) - counts[order]
            start = before[np.searchsorted(member[order], member)]
            shift = np.empty_like(counts)
            shift[order] = before
            shifts.append(shift - start)
        lesions = np.where(self.lesions < 0, -1, self.lesions + shifts[0][self.cases])
        frames = self.frames
        if frames is None and (self.images == 1).all():
            frames = np.zeros_like(self.cases)
        return Marks(
            self.scores,
            member[self.cases],
            lesions,
            _sums(member, self.images, len(names)),
            _sums(member, self.lesion_counts, len(names)),
            names,
            None if frames is None else frames + shifts[1][self.cases],
        )


_KINDS = {
    "scores": np.float64, "cases": np.intp, "lesions": np.intp,
    "images": np.intp, "lesion_counts": np.intp, "frames": np.intp,
}  # fmt: skip


def _sums(member: NDArray[np.intp], values: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    total = np.zeros(count, np.intp)
    np.add.at(total, member, values)
    return total


def _array(values: ArrayLike, kind: type, name: str) -> NDArray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be of shape (N,). Received: {array.shape}.")
    if kind is np.intp and array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers. Received: {array.dtype}.")
    return array.astype(kind)
