"""One study of several annotations of one frame.

The truth of Tajbakhsh et al. 2016, section IV-D, is the consensus of two experts. Where a frame was
annotated more than once without one, the mean line stands for it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from data_prep.readers._carotid import MIN_COLUMNS, CarotidStudy
from data_prep.readers._images import Unusable


def consensus(studies: Sequence[CarotidStudy]) -> CarotidStudy:
    """Make one study whose interfaces are the means of those of several annotations of its frame.

    Calibration and stored thickness are means, too: one frame has one scale, which each annotator
    measured anew. Names and image are those of the first study. An interface covers what all
    annotations cover of it. Lines are straight between points, so their mean has a corner wherever
    one of them has one. The studies themselves are kept in ``annotations``: only they show where
    one of them has a gap.

    Parameters
    ----------
    studies : sequence of CarotidStudy
        Two or more.

    Raises
    ------
    Unusable
        If the annotations share fewer than ``MIN_COLUMNS`` columns.
    """
    li = [study.lumen_intima for study in studies]
    ma = [study.media_adventitia for study in studies]
    first, last = _extent(li + ma)
    shared = max(0, math.floor(last) - math.ceil(first) + 1)
    if shared < MIN_COLUMNS:
        raise Unusable(
            f"the annotations of its frame share {shared} columns; {MIN_COLUMNS} are needed "
            "(--repeats=separate reads each on its own)"
        )
    stored = [study.stored_imt_mm for study in studies if study.stored_imt_mm is not None]
    return dataclasses.replace(
        studies[0],
        mm_per_pixel=float(np.mean([study.mm_per_pixel for study in studies])),
        mm_per_pixel_x=float(np.mean([study.mm_per_pixel_x for study in studies])),
        lumen_intima=_mean(li),
        media_adventitia=_mean(ma),
        stored_imt_mm=float(np.mean(stored)) if stored else None,
        notes=tuple(dict.fromkeys(note for study in studies for note in study.notes)),
        annotations=tuple(studies),
    )


def _extent(lines: list[np.ndarray]) -> tuple[float, float]:
    """First and last x that all lines (n, 2) cover."""
    return max(line[0, 0] for line in lines), min(line[-1, 0] for line in lines)


def _mean(lines: list[np.ndarray]) -> np.ndarray:
    x = np.unique(np.concatenate([line[:, 0] for line in lines]))
    first, last = _extent(lines)
    x = x[(x >= first) & (x <= last)]
    return np.column_stack([x, np.mean([np.interp(x, *line.T) for line in lines], axis=0)])
