"""Layers and initialisers that several networks share."""

import hashlib

import keras
import numpy as np
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
    own_seed = layer_seed(seed, name)
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


def layer_seed(seed: int, name: str) -> int:
    """Seed of one layer, 0 .. 2**32 - 1, made of the whole network's seed and the layer's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4])


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

    Same arguments, variables (kernel (kh, kw, channels / groups, filters), bias) and values, and
    several times faster where grouped convolution has no kernel of its own, as on a CPU. Channels
    must be last and the activation elementwise.
    """

    def call(self, inputs):
        """Convolve every group of channels with its own filters, then join the results."""

        def split(tensor):
            return ops.split(tensor, self.groups, axis=-1)

        outputs = [
            self.convolution_op(x, kernel)
            for x, kernel in zip(split(inputs), split(self.kernel), strict=True)
        ]
        # Bias and activation before joining: backends fuse them with the convolution.
        if self.use_bias:
            outputs = [
                ops.add(output, ops.reshape(bias, (1, 1, 1, -1)))
                for output, bias in zip(outputs, split(self.bias), strict=True)
            ]
        return ops.concatenate([self.activation(output) for output in outputs], axis=-1)


@keras.saving.register_keras_serializable("medxfer")
class LocalResponseNormalization(keras.layers.Layer):
    """Caffe's local response normalisation across channels, (N, H, W, C) -> the same.

    y_c = x_c / s_c^(3/4) with s_c = 1 + alpha / size * (sum of x_j^2 over the ``size`` channels
    around c, zeros beyond the first and the last). The exponent and the 1 are those of AlexNet in
    Caffe (``bvlc_alexnet``; Krizhevsky et al. 2012, section 3.3, has k = 2); TensorFlow's operation
    does not divide alpha by the size. Computed in float32 under mixed precision too.

    Parameters
    ----------
    size
        Number of channels in the window, odd.
    alpha
        Strength, before division by ``size``.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.alpha = alpha

    def call(self, inputs):
        """Normalise ``inputs`` without changing their shape or dtype."""
        channel = np.arange(inputs.shape[-1])
        near = np.abs(channel[:, None] - channel) <= self.size // 2
        # A 1x1 convolution with a banded matrix is the fastest of the window sums on a CPU.
        band = (self.alpha / self.size * near[None, None]).astype("float32")

        @ops.custom_gradient
        def normalise(x):
            s = 1 + ops.conv(x * x, band)
            root = ops.rsqrt(s)
            factor = root * ops.sqrt(root)  # s^(-3/4)
            y = x * factor

            def gradient(*args, upstream=None):
                # dy_c / dx_j = [c = j] s_c^(-3/4) - 3/2 alpha / size * x_j * y_c / s_c
                (g,) = args if upstream is None else (upstream,)
                return g * factor - 1.5 * x * ops.conv(g * y / s, band)

            return y, gradient

        return ops.cast(normalise(ops.cast(inputs, "float32")), inputs.dtype)

    def get_config(self):
        """Arguments that rebuild the layer."""
        return super().get_config() | {"size": self.size, "alpha": self.alpha}
