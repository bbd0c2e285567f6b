"""What may move in a stage: ``trainable`` flags, and the policy of batch normalisation.

Batch normalisation is told by its class, not by its name: networks call it ``bn``, ``norm`` or
``downsample.1``.
"""

from collections.abc import Iterator, Mapping, Sequence

import keras

from medxfer.tuning.stages import Stage


def freeze(
    groups: Mapping[str, Sequence[keras.Layer]], stage: Stage, synchronized: bool = False
) -> None:
    """Let move what the stage moves; to be called before the optimizer and the step are made.

    A group with multiplier 0 is a fixed function. In the others batch normalisation follows
    ``stage.batch_norm``:

    ============== ====================== ==================
    policy         moments, statistics    gamma and beta
    ============== ====================== ==================
    ``frozen``     the moving ones, fixed fixed
    ``affine``     the moving ones, fixed trained
    ``stats_only`` of the batch, moving   fixed
    ``train``      of the batch, moving   trained
    ============== ====================== ==================

    Parameters
    ----------
    groups : mapping of str to sequence of keras.Layer
        Layer groups from input to head.
    stage : Stage
        Checked against the groups.
    synchronized : bool
        Whether the moments of a batch are taken over all replicas, which then agree with one
        device.
    """
    stage.check(groups)
    for group, layers in groups.items():
        for layer in layers:
            layer.trainable = not stage.frozen(group)
            for inner in _all(layer):
                if isinstance(inner, keras.layers.Dropout):
                    inner.trainable = stage.dropout and not stage.frozen(group)
            for inner in filter(_is_batch_norm, _all(layer)):
                policy = "frozen" if stage.frozen(group) else stage.batch_norm.get(group, "frozen")
                _apply(inner, policy)
                inner.synchronized = synchronized and policy in ("stats_only", "train")


def _is_batch_norm(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _all(layer: keras.Layer) -> Iterator[keras.Layer]:
    """The layer, and those within it."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _all(inner)


def _apply(layer: keras.layers.BatchNormalization, policy: str) -> None:
    layer.trainable = policy != "frozen"
    for variable in (layer.gamma, layer.beta):
        if variable is not None:
            variable.trainable = policy in ("affine", "train")
    # Keras ties the moments to ``trainable``; only the argument ``training`` parts them.
    own = vars(layer)
    own.pop("call", None)
    if policy == "affine":

        def call(inputs, training=None, mask=None):
            return type(layer).call(layer, inputs, training=False, mask=mask)

        own["call"] = call
