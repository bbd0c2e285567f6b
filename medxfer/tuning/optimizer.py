"""Stochastic gradient descent with a rate and a weight decay of its own for every variable."""

from collections.abc import Mapping, Sequence

import keras
from keras import ops

from medxfer.tuning.stages import Stage


@keras.saving.register_keras_serializable(package="medxfer")
class LayerwiseSGD(keras.optimizers.Optimizer):
    """Caffe's momentum update with one multiplier and one decay per variable.

    For a weight w with gradient g, velocity V, multiplier m and decay d::

        V <- momentum * V - learning_rate * m * (g + d * w)
        w <- w + V

    That is the update of Tajbakhsh et al. 2016, section III, with Caffe's coupled L2 decay
    (``sgd_solver.cpp``). The decay lies inside the update, not in the loss, so that the loss
    reported is the likelihood alone, and not outside the velocity as in Keras' ``weight_decay``.

    There is one ``learning_rate``, as callbacks and schedules expect, and every rate is a fixed
    multiple of it. Rules are by exact path (``conv1/kernel``) and resolved once, in ``build``.

    Parameters
    ----------
    learning_rate : float or keras.optimizers.schedules.LearningRateSchedule
        Rate of a variable whose multiplier is 1.
    multipliers : mapping of str to float
        Variable path -> multiplier, above 0. To freeze a variable make its layer untrainable.
    decays : mapping of str to float, optional
        Variable path -> decay, at least 0; variables not named have none.
    momentum : float
        At least 0 and below 1.

    Raises
    ------
    ValueError
        Here if a value is out of range; in ``build`` if a variable has no multiplier, if a rule
        covers no variable, or if two variables share one path.
    """

    def __init__(
        self,
        learning_rate: float,
        multipliers: Mapping[str, float],
        decays: Mapping[str, float] | None = None,
        momentum: float = 0.9,
        name: str = "layerwise_sgd",
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.multipliers = dict(multipliers)
        self.decays = dict(decays or {})
        self.momentum = momentum
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1. Received: {momentum}.")
        for path, value in self.multipliers.items():
            if not value > 0:
                raise ValueError(
                    f"The multiplier of {path} must be above 0; to freeze it set its layer's "
                    f"trainable = False. Received: {value}."
                )
        for path, value in self.decays.items():
            if not value >= 0:
                raise ValueError(f"The decay of {path} must be at least 0. Received: {value}.")

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the velocities (float32, shapes of ``variables``) and resolve the rules."""
        if self.built:
            return
        super().build(variables)
        paths = [variable.path for variable in variables]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        bare = [path for path in paths if path not in self.multipliers]
        stray = [path for path in {**self.multipliers, **self.decays} if path not in paths]
        if twice:
            raise ValueError(f"Several variables are called {', '.join(twice)}: rename a layer.")
        if bare:
            raise ValueError(f"No multiplier covers {', '.join(bare)}.")
        if stray:
            raise ValueError(f"No trainable variable is called {', '.join(stray)}.")
        # By index: on the TensorFlow backend update_step() sees variables without a path.
        self._rules = [(self.multipliers[path], self.decays.get(path, 0.0)) for path in paths]
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move one variable and its velocity."""
        index = self._get_variable_index(variable)
        multiplier, decay = self._rules[index]
        velocity = self.velocities[index]
        rate = ops.cast(learning_rate, variable.dtype) * multiplier
        gradient = ops.cast(gradient, variable.dtype)
        if decay:
            gradient = ops.add(gradient, ops.multiply(variable, decay))
        step = ops.subtract(ops.multiply(velocity, self.momentum), ops.multiply(gradient, rate))
        self.assign(velocity, step)
        self.assign_add(variable, step)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        else:
            rate = float(ops.convert_to_numpy(self.learning_rate))
        return {
            "learning_rate": rate,
            "multipliers": self.multipliers,
            "decays": self.decays,
            "momentum": self.momentum,
            "name": self.name,
        }


def for_stage(
    groups: Mapping[str, Sequence[keras.Layer]],
    stage: Stage,
    *,
    momentum: float,
    weight_decay: float,
) -> LayerwiseSGD:
    """The optimizer of one stage, built on the trainable variables of its groups.

    Biases take ``stage.bias_multiplier`` on top of their group's multiplier; only kernels decay
    (the decay multipliers 1 and 0 of Caffe's published networks). Velocities start at 0.

    Parameters
    ----------
    groups : mapping of str to sequence of keras.Layer
        Layer groups whose ``trainable`` flags already follow the stage.
    stage : Stage
        Multipliers and base rate.
    momentum, weight_decay : float
        As in :class:`LayerwiseSGD`.
    """
    variables, multipliers, decays = [], {}, {}
    for group, layers in groups.items():
        for variable in (v for layer in layers for v in layer.trainable_variables):
            factor = stage.bias_multiplier if variable.name == "bias" else 1.0
            multipliers[variable.path] = stage.multipliers[group] * factor
            if variable.name == "kernel":
                decays[variable.path] = weight_decay
            variables.append(variable)
    optimizer = LayerwiseSGD(stage.base_rate, multipliers, decays, momentum)
    optimizer.build(variables)
    return optimizer
