"""The layers of AlexNet in plain NumPy, channels first, one image, float64: a second opinion."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(x, kernel, bias, stride=1, pad=0, groups=1):
    """``x`` (C, H, W), ``kernel`` (O, C / groups, kh, kw) as in Caffe and PyTorch."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = []
    for channels, filters in zip(np.split(x, groups), np.split(kernel, groups), strict=True):
        windows = sliding_window_view(channels, kernel.shape[2:], axis=(1, 2))
        out.append(
            np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], filters, optimize=True)
        )
    return np.concatenate(out) + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def max_pool(x, side=3, stride=2):
    return sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride].max((3, 4))


def lrn(x, size=5, alpha=1e-4, beta=0.75):
    """Caffe's, channel by channel."""
    y = np.empty_like(x)
    for c in range(len(x)):
        window = x[max(0, c - size // 2) : c + size // 2 + 1]
        y[c] = x[c] / (1 + alpha / size * (window**2).sum(0)) ** beta
    return y


def from_keras(arrays):
    """Kernel (kh, kw, in, out) or (in, out) and bias of Keras -> float64, filters first."""
    kernel, bias = (np.asarray(array, "float64") for array in arrays)
    return (kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T), bias


def rows_first(x):
    """(C, H, W) -> vector in the order in which Keras flattens."""
    return x.transpose(1, 2, 0).reshape(-1)
