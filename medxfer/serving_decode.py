"""Encoded images to the inputs of a network, inside an export: bounded, one after the other.

A few bytes may stand for an image that fills the memory of a server. Each image's header is read
before it is decoded, and images of a request are decoded one at a time.
"""

from collections.abc import Callable

import tensorflow as tf

MAX_PIXELS = 40_000_000  # of an image; a mammogram has up to 29 million


def decoded(contents: tf.Tensor, transform: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Decode images that may differ in size.

    Parameters
    ----------
    contents : string tensor of shape (N,)
        PNG, JPEG, GIF (its first frame) or BMP.
    transform : callable
        RGB images, float32 (1, H, W, 3), 0 to 255 -> network input, float32 (1, S, S, C).

    Returns
    -------
    float32 tensor of shape (N, S, S, C), or (1, S, S, C) of a black image where N is 0

    Raises
    ------
    InvalidArgumentError
        In the graph, naming the first image that cannot be decoded or has more than
        :data:`MAX_PIXELS` pixels.
    """

    def read(index: tf.Tensor, content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.control_dependencies(
            [tf.debugging.Assert(_pixels(content) <= MAX_PIXELS, [index])]
        ):
            content = tf.identity(content)
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return index, transform(tf.cast(image, tf.float32)[None])[0]

    # An operation that fails does not say for which image: the images that are left do.
    options = tf.data.Options()
    options.autotune.enabled = False  # whose thread is waited for at the end of every request
    options.threading.max_intra_op_parallelism = 1
    images = tf.data.Dataset.from_tensor_slices(contents).enumerate().map(read).ignore_errors()
    # One more, so that there is a batch where all are bad or none was sent.
    blank = transform(tf.zeros((1, 1, 1, 3)))
    last = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), blank[0]))
    count = tf.size(contents, tf.int64)
    batch = images.concatenate(last).batch(count + 1).with_options(options)
    indices, inputs = batch.get_single_element()
    lost = tf.sets.difference(tf.range(count)[None], indices[None, :-1]).values
    about = "image {} of the request, counted from 0, is no readable PNG, JPEG, GIF or BMP file of "
    message = tf.strings.format(f"{about}at most {MAX_PIXELS} pixels", tf.reduce_min(lost))
    with tf.control_dependencies([tf.debugging.Assert(tf.size(lost) == 0, [message])]):
        return inputs[: tf.maximum(count, 1)]


def _pixels(content: tf.Tensor) -> tf.Tensor:
    """Height times width by the header, int64; fails where there is none."""

    def product(height: int, width: int, size: int, order: int) -> tf.Tensor:
        """Of the two numbers of ``size`` bytes at those places; ``order``: -1 little-endian."""

        def number(place: int) -> tf.Tensor:
            digits = tf.io.decode_raw(tf.strings.substr(content, place, size), tf.uint8)
            weights = tf.constant([256**k for k in reversed(range(size))], tf.int64)
            return tf.reduce_sum(tf.cast(digits[::order], tf.int64) * weights)

        return number(height) * number(width)

    def jpeg() -> tf.Tensor:
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.int64))

    return tf.case(
        [
            (tf.strings.substr(content, 0, 2) == b"\xff\xd8", jpeg),
            (tf.strings.substr(content, 0, 4) == b"\x89PNG", lambda: product(20, 16, 4, 1)),
            (tf.strings.substr(content, 0, 4) == b"GIF8", lambda: product(8, 6, 2, -1)),
        ],
        default=lambda: product(22, 18, 4, -1),
    )
