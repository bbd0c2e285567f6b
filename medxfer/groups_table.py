"""``--list_groups``: the layer groups of a network, what they cost and which of them is tuned.

Compute is counted in multiply-accumulates of convolutions and dense layers, for one image and one
pass forwards; what else a network does (activations, pooling, normalisation, biases) is a few
hundredths of that. Activations are the outputs of all layers but inputs and mere reshapes, for one
image in float32: about what training has to keep of it.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import keras

from medxfer import tuning
from medxfer.config import Config
from medxfer.models import _groups
from medxfer.tuning.stages import Stage

MIB = 2**20
_FLOAT = 4  # bytes
_VIEWS = (keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Reshape)


@dataclasses.dataclass(frozen=True)
class Group:
    """One layer group.

    Attributes
    ----------
    name : str
    layers : int
        Layers with weights.
    parameters : int
    output : tuple of int
        Shape of what it hands on, without the batch.
    activations : int
        Numbers in the outputs of its layers, for one image.
    macs : int
        Multiply-accumulates for one image.
    """

    name: str
    layers: int
    parameters: int
    output: tuple[int, ...]
    activations: int
    macs: int


def groups_of(model: keras.Model, table: Mapping[str, Sequence[str]]) -> list[Group]:
    """The groups of a network, input to head.

    Layers without weights that no group names, such as pooling, count to the group before them.

    Parameters
    ----------
    model : keras.Model
    table : mapping
        ``LAYER_GROUPS`` of its module.
    """
    groups = _groups.layer_groups(model, table)
    owner = {layer.name: name for name, layers in groups.items() for layer in layers}
    members: dict[str, list[keras.Layer]] = {name: [] for name in groups}
    current = next(iter(groups))
    for layer in model.layers:
        current = owner.get(layer.name, current)
        members[current].append(layer)
    return [
        Group(
            name,
            sum(bool(layer.weights) for layer in layers),
            sum(math.prod(weight.shape) for layer in layers for weight in layer.weights),
            tuple(layers[-1].output.shape[1:]),
            sum(math.prod(layer.output.shape[1:]) for layer in layers
                if not isinstance(layer, _VIEWS)),
            sum(map(macs, layers)),
        )
        for name, layers in members.items()
    ]  # fmt: skip


def macs(layer: keras.Layer) -> int:
    """Multiply-accumulates of one layer for one image: every kernel once at every output place."""
    kernels = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) > 1)
    return kernels * math.prod(layer.output.shape[1:-1]) if kernels else 0


def moves(stages: Sequence[Stage], group: str) -> str:
    """In words, when a group is tuned and at which rate."""
    own = [stage for stage in stages if not stage.frozen(group)]
    if not own:
        return "frozen"
    rates = [
        "solved" if stage.head else f"{stage.base_rate * stage.multipliers[group]:g}"
        for stage in own
    ]
    if len(stages) == 1:
        return rates[0]
    if len(own) > 2 and len(set(rates)) == 1:
        return f"{own[0].name} to {own[-1].name} {rates[0]}"
    return ", ".join(f"{stage.name} {rate}" for stage, rate in zip(own, rates, strict=True))


def tuned(
    model: keras.Model, groups: Mapping[str, Sequence[keras.Layer]], stages: Sequence[Stage]
) -> int:
    """Parameters that move in the stage that moves the most."""
    counts = []
    for stage in stages:
        tuning.freeze(groups, stage)
        counts.append(sum(math.prod(weight.shape) for weight in model.trainable_weights))
    return max(counts)


def text(found: Sequence[Group], stages: Sequence[Stage] | None, tune: str) -> list[str]:
    """Lines of the table; without ``stages`` there is no column of what is tuned."""
    total = sum(group.macs for group in found)
    head = ["group", "layers", "parameters", "output", "weights MiB", "activations MiB", "compute"]
    rows = [head + ([f"rate under --tune={tune}"] if stages else [])]
    for group in found:
        shape = " x ".join(map(str, group.output))
        cells = [group.name, str(group.layers), f"{group.parameters:,}", shape]
        cells += [
            f"{group.parameters * _FLOAT / MIB:.1f}",
            f"{group.activations * _FLOAT / MIB:.2f}",
            f"{group.macs / total:.1%}",
        ]
        rows.append(cells + ([moves(stages, group.name)] if stages else []))
    sums = [
        "all", str(sum(group.layers for group in found)),
        f"{sum(group.parameters for group in found):,}", "",
        f"{sum(group.parameters for group in found) * _FLOAT / MIB:.1f}",
        f"{sum(group.activations for group in found) * _FLOAT / MIB:.2f}",
        f"{total / 1e9:.2f} G",
    ]  # fmt: skip
    rows.append(sums + ([""] if stages else []))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) + bool(stages))]
    left = (0, 3, 7)  # words; the others are numbers
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def command(config: Config, classes: int, given: bool) -> str:
    """The table of ``config.model``.

    Parameters
    ----------
    config : Config
        ``model``, ``tune`` and what stages are made of.
    classes : int
        Outputs of the head.
    given : bool
        Whether ``config.tune`` was asked for; a default that this network does not have is left
        out.

    Raises
    ------
    UserError
        If ``config.tune`` was asked for and is unknown.
    """
    from medxfer import models
    from medxfer.studies import auto

    module = models.load(config.model, config.input_side)
    model = module.build(classes, init=config.init, seed=config.seed, dropout=config.dropout)
    groups = _groups.layer_groups(model, module.LAYER_GROUPS)
    names = list(groups)
    stages = None
    if config.tune != auto.AUTO and (given or config.tune in names):
        stages = tuning.stages_for(config.tune, names, config, _new(config, names))
    lines = text(groups_of(model, module.LAYER_GROUPS), stages, config.tune)
    side = module.INPUT_SIDE
    lines.append("")
    if stages:
        who = f"--tune={config.tune}"
        if len(stages) > 1:
            who += f" has {len(stages)} stages, of which the largest"
        moved = tuned(model, groups, stages)
        lines.append(f"{who} moves {moved:,} of {model.count_params():,} parameters.")
    elif config.tune == auto.AUTO:
        lines.append("--tune=auto finds the depth by trying.")
    lines.append(
        f"{config.model}, input {side} x {side}, {classes} classes. Weights and activations (of "
        "one image) in float32; compute: multiply-accumulates of one image forwards. Its own base "
        f"rate: {module.RATE:g}; its own start of scratch: {module.INIT}."
    )
    return "\n".join(lines)


def _new(config: Config, names: Sequence[str]) -> Collection[str]:
    """Groups without pre-trained weights, if those of the run are for all layers but the head."""
    return names if config.weights == "none" or config.tune == "scratch" else names[-1:]
