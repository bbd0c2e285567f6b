"""Layers and initialisers that several networks share."""

import hashlib

import keras
from keras import ops

from data_prep.errors import UserError

INITS = ("gaussian", "xavier", "msra")


def weights(init: str, seed: int, name: str, *, std: float, bias: float) -> dict[str, object]:
    """Keyword arguments that name a layer and give it its first weights.

    Parameters
    ----------
    init
        How the kernel starts. ``gaussian``: N(0, ``std``); ``xavier``: U(+-sqrt(3 / fan_in));
        ``msra``: N(0, sqrt(2 / fan_in)); all three as Caffe defines them (``filler.hpp``).
    seed
        Seed of the whole network; every layer draws from a stream of its own.
    name
        Name of the layer.
    std
        Standard deviation of ``gaussian``; the other two do not use it.
    bias
        First value of every bias.

    Raises
    ------
    UserError
        If ``init`` is none of the three.
    """
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4])
    start = keras.initializers
    if init == "gaussian":
        kernel = start.RandomNormal(stddev=std, seed=own_seed)
    elif init == "xavier":
        kernel = start.VarianceScaling(1, "fan_in", "uniform", seed=own_seed)
    elif init == "msra":
        kernel = start.VarianceScaling(2, "fan_in", "untruncated_normal", seed=own_seed)
    else:
        raise UserError(f"--init must be one of {', '.join(INITS)}. Received: '{init}'.")
    return {
        "name": name,
        "kernel_initializer": kernel,
        "bias_initializer": start.Constant(bias),
    }


@keras.saving.register_keras_serializable("medxfer")
class Dropout(keras.layers.Dropout):
    """Dropout that is off while ``trainable`` is False.

    A frozen layer group is a fixed function, like frozen batch normalisation in Keras.
    """

    def call(self, inputs, training=False):
        """Drop units of ``inputs`` in training, unless frozen."""
        return super().call(inputs, training=training and self.trainable)


@keras.saving.register_keras_serializable("medxfer")
class GroupedConv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` with ``groups``, computed as one convolution for each group.

    Same arguments, kernel variable (kh, kw, channels / groups, filters) and values; several times
    faster where the backend has no kernel of its own for grouped convolution, as on a CPU.
    Channels must come last.
    """

    def convolution_op(self, inputs, kernel):
        """Convolve every group of channels with its own filters and join the results."""
        pairs = zip(
            ops.split(inputs, self.groups, axis=-1),
            ops.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        return ops.concatenate([super(GroupedConv2D, self).convolution_op(*p) for p in pairs], -1)


@keras.saving.register_keras_serializable("medxfer")
class LocalResponseNormalization(keras.layers.Layer):
    """Caffe's local response normalisation across channels.

    y_c = x_c / (k + alpha / size * sum of x_j^2 over the ``size`` channels around c)^beta, with
    zeros beyond the first and last channel. Other libraries do not divide alpha by the size.
    Computed in float32 whatever the precision: a square of 0..255 data overflows float16.

    Parameters
    ----------
    size
        Number of channels in the window, odd.
    alpha, beta, k
        Constants of the formula; the defaults are AlexNet's (Krizhevsky et al. 2012, section 3.3,
        with k = 1 as in Caffe's ``bvlc_alexnet``).
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, k=1.0, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def call(self, inputs):
        """Normalise ``inputs``, (..., channels), without changing shape or dtype."""
        x = ops.cast(inputs, "float32")
        half = self.size // 2
        squares = ops.pad(x * x, [(0, 0)] * (len(x.shape) - 1) + [(half, half)])
        channels = x.shape[-1]
        window = sum(squares[..., shift : shift + channels] for shift in range(self.size))
        scale = ops.power(self.k + self.alpha / self.size * window, -self.beta)
        return ops.cast(x * scale, inputs.dtype)

    def get_config(self):
        """Arguments that rebuild the layer."""
        constants = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}
        return super().get_config() | constants
