"""Auto-RGN and Auto-SNR: how fast each tensor should learn, read off a few gradients.

Lee et al., "Surgical fine-tuning improves adaptation to distribution shifts" (ICLR 2023), and the
code of its authors (anniesch/surgical-finetuning, ``main.py``). A tensor is one variable: kernel
and bias are judged separately. What the authors leave open is said beside each function.
"""

from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from data_prep.errors import UserError

NO_RATIO = -1.0  # statistic of a tensor whose norm is too small for a ratio

_SMALL = 1e-8
_SNR = 0.95


def statistic(rule: str, gradient, variable):
    """Statistic of one tensor and one batch, a float32 scalar tensor.

    Parameters
    ----------
    rule : str
        ``rgn``: ||g|| / ||w||, the relative gradient norm, :data:`NO_RATIO` if ||w|| < 1e-8 (a
        fresh bias), where the authors divide by 0. ``snr``: the mean of g**2 / (var(g) + 1e-8), the
        unbiased variance being taken over output channels, as the authors' code has it (over the
        first dimension of PyTorch's tensors; in Keras the last, or of depthwise kernels, whose last
        dimension is 1, the one before).
    gradient, variable : tensor
        Gradient of the mean loss over the batch, and the tensor itself.
    """
    gradient = ops.cast(gradient, "float32")
    if rule == "rgn":
        norm = ops.norm(ops.reshape(ops.cast(variable, "float32"), (-1,)))
        ratio = ops.norm(ops.reshape(gradient, (-1,))) / ops.maximum(norm, _SMALL)
        return ops.where(norm < _SMALL, NO_RATIO, ratio)
    wide = [axis for axis, size in enumerate(gradient.shape) if size > 1]
    if not wide:
        return ops.zeros((), "float32")  # one number has no spread
    axis, size = wide[-1], gradient.shape[wide[-1]]
    variance = ops.var(gradient, axis=axis, keepdims=True) * (size / (size - 1))
    return ops.mean(ops.square(gradient) / (variance + _SMALL))


def factors(
    rule: str, paths: Sequence[str], statistics: np.ndarray, leave: Collection[str] = ()
) -> dict[str, float]:
    """Factors on the rates of an epoch.

    Parameters
    ----------
    rule : str
        ``rgn``: the statistic over the greatest one of the network, so that the greatest factor is
        1. A tensor without a ratio has no part in the maximum and takes the factor of its layer's
        kernel, or 1 if that has none either; if all ratios are 0, every factor is 1. ``snr``: 1
        where the statistic is at least 0.95, else 0.
    paths : sequence of str
        Paths of the tensors, ``layer/kernel``.
    statistics : ndarray, (batches, tensors)
        What :func:`statistic` gave; the mean over the batches counts.
    leave : collection of str
        Paths with factor 1 and no part in the maximum.

    Returns
    -------
    dict of str to float
        Path -> factor.

    Raises
    ------
    UserError
        If a statistic is not finite; the message names its tensor.
    """
    means = dict(zip(paths, np.asarray(statistics, np.float64).mean(axis=0), strict=True))
    if broken := [path for path, value in means.items() if not np.isfinite(value)]:
        raise UserError(
            f"The gradient of {broken[0]} is not finite, so no rate can be found for it. Try a "
            "smaller --base_rate or --precision=float32."
        )
    if rule == "snr":
        found = {path: float(value >= _SNR) for path, value in means.items()}
    else:
        ratios = {p: value for p, value in means.items() if value >= 0 and p not in leave}
        greatest = max(ratios.values(), default=0.0)
        found = {p: float(r / greatest) if greatest else 1.0 for p, r in ratios.items()}
        for path in means:
            kernel = f"{path.rpartition('/')[0]}/kernel"
            found.setdefault(path, found.get(kernel, 1.0))
    return {path: 1.0 if path in leave else found[path] for path in paths}


def left(groups: Mapping[str, Sequence[keras.Layer]], names: Collection[str]) -> set[str]:
    """Paths of the variables in the groups ``names``."""
    return {v.path for name in names for layer in groups[name] for v in layer.variables}
