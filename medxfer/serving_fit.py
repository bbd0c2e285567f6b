"""Images of any shape to the square that a network learnt from, inside an export.

What :func:`data_prep.classify.fit` does before records are written, as TensorFlow operations, so
that a client may send an image as it is: nothing is stretched. The two agree to one or two grey
levels; OpenCV computes with whole numbers.
"""

import tensorflow as tf


def square(images: tf.Tensor, side: int, how: str) -> tf.Tensor:
    """Fit equal images.

    Parameters
    ----------
    images : float32 tensor of shape (N, H, W, 3)
        0 to 255.
    side : int
    how : str
        "pad": the whole image, black beside it; "crop": the square in its middle.

    Returns
    -------
    float32 tensor of shape (N, side, side, 3), whole numbers; an image of that size is unchanged.
    """
    if how == "crop":
        height, width = tf.unstack(tf.shape(images)[1:3])
        short = tf.minimum(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        images = images[:, top : top + short, left : left + short]
    height, width = tf.unstack(tf.shape(images)[1:3])
    longest = tf.maximum(height, width)
    scale = side / tf.cast(longest, tf.float64)
    high, wide = (
        tf.maximum(1, tf.cast(tf.round(tf.cast(size, tf.float64) * scale), tf.int32))
        for size in (height, width)
    )
    resized = tf.cond(
        longest > side,
        lambda: tf.image.resize(images, (high, wide), "area"),
        lambda: tf.image.resize(images, (high, wide), "bilinear"),
    )
    top, left = (side - high) // 2, (side - wide) // 2
    padded = tf.pad(
        tf.round(resized), [[0, 0], [top, side - high - top], [left, side - wide - left], [0, 0]]
    )
    return tf.ensure_shape(padded, (None, side, side, 3))
