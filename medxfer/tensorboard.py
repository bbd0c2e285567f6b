"""Training curves for TensorBoard: ``tensorboard --logdir runs``."""

import pathlib
from collections.abc import Mapping

import tensorflow as tf


class Board:
    """Writes scalars to one folder; without a folder it writes nothing.

    Parameters
    ----------
    folder : pathlib.Path or None
        None in all processes but the chief.
    """

    def __init__(self, folder: pathlib.Path | None) -> None:
        self._writer = tf.summary.create_file_writer(str(folder)) if folder else None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one value for every tag, and make them visible at once."""
        if self._writer is None:
            return
        with self._writer.as_default():
            for tag, value in values.items():
                tf.summary.scalar(tag, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
