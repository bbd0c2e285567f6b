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
    high, wide = (
        tf.maximum(
            1,
            tf.cast(
                tf.round(tf.cast(size * side, tf.float32) / tf.cast(longest, tf.float32)), tf.int32
            ),
        )
        for size in (height, width)
    )
    resized = tf.cond(
        longest > side,
        lambda: _area(_area(images, high, 1), wide, 2),
        lambda: tf.image.resize(images, (high, wide), "bilinear"),
    )
    top, left = (side - high) // 2, (side - wide) // 2
    padded = tf.pad(
        tf.round(resized), [[0, 0], [top, side - high - top], [left, side - wide - left], [0, 0]]
    )
    return tf.reshape(padded, (-1, side, side, 3))  # known sides, by an operation TFLite has


def _area(images: tf.Tensor, size: tf.Tensor, axis: int) -> tf.Tensor:
    """Means over equal parts of an axis, as OpenCV's ``INTER_AREA``; TFLite has no such resize."""
    old = tf.shape(images)[axis]
    step = tf.cast(old, tf.float32) / tf.cast(size, tf.float32)
    start = tf.cast(tf.range(size), tf.float32)[:, None] * step
    pixel = tf.cast(tf.range(old), tf.float32)[None]
    cover = tf.minimum(start + step, pixel + 1) - tf.maximum(start, pixel)
    weights = tf.maximum(cover, 0) / step
    return tf.einsum("oi,nijc->nojc" if axis == 1 else "oj,nijc->nioc", weights, images)
