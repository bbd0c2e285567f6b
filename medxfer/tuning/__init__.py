"""How deep, how fast and in what order to tune: a name becomes a list of stages.

Stages and optimizers serve any Keras model, whatever trains it:

>>> import keras
>>> from medxfer import tuning
>>> from medxfer.config import Config
>>> body, head = keras.layers.Dense(8, name="body"), keras.layers.Dense(2, name="head")
>>> model = keras.Sequential([keras.Input((4,)), body, head])
>>> groups = {"body": [body], "head": [head]}
>>> for stage in tuning.stages_for("g_lf", list(groups), Config("mine", epochs=4)):
...     tuning.freeze(groups, stage)
...     model.compile(tuning.for_stage(groups, stage), "mse")
...     history = model.fit(keras.ops.ones((6, 4)), keras.ops.ones((6, 2)), epochs=stage.epochs,
...                         verbose=0)
...     print(stage.name, stage.epochs, [layer.name for layer in model.layers if layer.trainable])
g_lf_0 2 ['head']
g_lf_1 2 ['body', 'head']

Rates over epochs are ``stage.rate(epoch, gamma)``. A stage with a ``head`` is carried out by
:mod:`medxfer.tuning.head`; one that is ``adaptive`` has its factors from
:mod:`medxfer.tuning.adaptive` and takes them with the optimizer's ``begin_epoch``.
"""

import dataclasses
from collections.abc import Collection, Sequence

from data_prep.errors import UserError
from medxfer import plugins
from medxfer.config import Config
from medxfer.tuning import depth
from medxfer.tuning.depth import distinct as distinct
from medxfer.tuning.freezing import freeze as freeze
from medxfer.tuning.optimizer import for_stage as for_stage
from medxfer.tuning.stages import Stage

STRATEGIES = "medxfer.tuning.strategies"


def stages_for(
    tune: str, groups: Sequence[str], config: Config, new: Collection[str] = ()
) -> list[Stage]:
    """Stages of a run: a depth, ``scratch``, or a strategy found by its name.

    Parameters
    ----------
    tune : str
        A layer group (tune from it to the head), "scratch", or the name of a module in
        ``medxfer/tuning/strategies`` that has ``stages(groups, config, new) -> list[Stage]``.
    groups : sequence of str
        Layer groups from input to head.
    config : Config
        Rates, epochs, patience, and what single strategies read. With ``head_init="lp"`` a
        strategy begins with a linear probe, where the head alone is new.
    new : collection of str
        Groups without pre-trained weights.

    Raises
    ------
    UserError
        If ``tune`` is none of these; the message lists the valid names.
    """
    groups = list(groups)
    if tune == depth.SCRATCH or tune in groups:
        return depth.stages(groups, config, new, tune)
    strategies = plugins.names(STRATEGIES)
    if tune in strategies:
        stages = plugins.load(STRATEGIES, tune).stages(groups, config, new)
        if config.head_init == "lp" and not stages[0].head and not set(new) - {groups[-1]}:
            stages = [dataclasses.replace(stage, dropout=False) for stage in stages]
            stages = plugins.load(STRATEGIES, "lp").stages(groups, config, new) + stages
        for stage in stages:
            stage.check(groups)
        return stages
    valid = [*reversed(groups), depth.SCRATCH, *strategies]
    raise UserError(f"--tune={tune} is unknown. Valid names: {', '.join(valid)}.")
