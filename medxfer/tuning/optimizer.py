"""Optimizers with a rate, a weight decay and a pull towards the start for every variable."""

from collections.abc import Mapping, Sequence

import keras
from keras import ops

from medxfer.tuning.stages import Stage


class _Layerwise(keras.optimizers.Optimizer):
    """What :class:`LayerwiseSGD` and :class:`LayerwiseAdam` share: the rules of each variable."""

    def __init__(
        self,
        learning_rate: float,
        multipliers: Mapping[str, float],
        decays: Mapping[str, float] | None = None,
        *,
        pulls: Mapping[str, tuple[str, float]] | None = None,
        adaptive: bool = False,
        paths: Sequence[str] | None = None,
        name: str,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.paths = list(paths or ())
        self.multipliers = dict(multipliers)
        self.decays = dict(decays or {})
        self.pulls = {path: (norm, float(value)) for path, (norm, value) in (pulls or {}).items()}
        self.adaptive = adaptive
        for path, value in self.multipliers.items():
            if not value > 0:
                raise ValueError(
                    f"The multiplier of {path} must be above 0; to freeze it set its layer's "
                    f"trainable = False. Received: {value}."
                )
        for path, value in self.decays.items():
            if not value >= 0:
                raise ValueError(f"The decay of {path} must be at least 0. Received: {value}.")
        for path, (norm, value) in self.pulls.items():
            if norm not in ("l1", "l2") or not value >= 0:
                raise ValueError(
                    f"The pull of {path} must be 'l1' or 'l2' and a strength of at least 0. "
                    f"Received: {norm!r}, {value}."
                )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots (shapes of ``variables``), keep the start, and resolve the rules."""
        if self.built:
            return
        super().build(variables)
        paths = self._named(variables)
        twice = sorted({path for path in paths if paths.count(path) > 1})
        bare = [path for path in paths if path not in self.multipliers]
        stray = [p for p in {**self.multipliers, **self.decays, **self.pulls} if p not in paths]
        if twice:
            raise ValueError(f"Several variables are called {', '.join(twice)}: rename a layer.")
        if bare:
            raise ValueError(f"No multiplier covers {', '.join(bare)}.")
        if stray:
            raise ValueError(f"No trainable variable is called {', '.join(stray)}.")
        # By index: on the TensorFlow backend update_step() sees variables without a path.
        self.paths = paths
        self._rules = [(self.multipliers[path], self.decays.get(path, 0.0)) for path in paths]
        self._slots = self._add_slots(variables)
        # Variables, so that they are saved and an interrupted stage keeps its start.
        self._starts = {}
        for index, (path, variable) in enumerate(zip(paths, variables, strict=True)):
            if path in self.pulls:
                start = self.add_variable_from_reference(variable, "start")
                start.assign(variable)
                self._starts[index] = (start, *self.pulls[path])
        if self.adaptive:
            self._factors = self.add_variable((len(paths),), "ones", "float32", name="factors")

    def _named(self, variables: Sequence[keras.Variable]) -> list[str]:
        """Paths of the variables, by which the rules call them.

        A model that Keras loads may call them otherwise: those within a Sequential model lose its
        name. The optimizer loaded with it knows their former paths and gives each its own back, if
        all have the same layers and names in the same order.
        """
        paths = [variable.path for variable in variables]
        ends = [[path.split("/")[-2:] for path in names] for names in (paths, self.paths)]
        return list(self.paths) if ends[0] == ends[1] else paths

    def _add_slots(self, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Create what the update remembers, all 0 at the beginning."""
        raise NotImplementedError

    def begin_epoch(self, factors: Mapping[str, float]) -> None:
        """Set the factors of an adaptive stage and forget all momenta.

        Parameters
        ----------
        factors : mapping of str to float
            Path of every variable -> further factor on its rate, at least 0.

        Raises
        ------
        ValueError
            If the optimizer is not adaptive, or the paths are not its variables.
        """
        if not self.adaptive or set(factors) != set(self.paths):
            raise ValueError("Factors are for adaptive optimizers, one for each variable.")
        self._factors.assign([factors[path] for path in self.paths])
        self.iterations.assign(0)
        for slot in self._slots:
            slot.assign(ops.zeros(slot.shape, slot.dtype))

    def _rate(self, index: int, variable, learning_rate):
        """Rate of one variable."""
        rate = ops.cast(learning_rate, variable.dtype) * self._rules[index][0]
        if self.adaptive:
            rate = rate * ops.cast(self._factors[index], variable.dtype)
        return rate

    def _gradient(self, index: int, gradient, variable):
        """Gradient of the loss with decay and pull."""
        gradient = ops.cast(gradient, variable.dtype)
        decay = self._rules[index][1]
        if decay:
            gradient = ops.add(gradient, ops.multiply(variable, decay))
        if index in self._starts:
            start, norm, strength = self._starts[index]
            away = ops.subtract(variable, start)
            away = ops.sign(away) if norm == "l1" else away
            gradient = ops.add(gradient, ops.multiply(away, strength))
        return gradient

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
            "pulls": {path: list(pull) for path, pull in self.pulls.items()},
            "adaptive": self.adaptive,
            "paths": self.paths,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="medxfer")
class LayerwiseSGD(_Layerwise):
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
    pulls : mapping of str to (str, float), optional
        Variable path -> norm and strength a of a pull towards w0, the value when the optimizer is
        built: ``l2`` adds a * (w - w0) to the gradient, ``l1`` a * sign(w - w0), which is 0 at w0
        (L2-SP and L1-SP; Li et al., ICML 2018).
    adaptive : bool
        Whether rates have a further factor, see :meth:`begin_epoch`.
    paths : sequence of str, optional
        Of the variables that a saved optimizer was built on, in order; ``get_config`` gives them.

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
        pulls: Mapping[str, tuple[str, float]] | None = None,
        adaptive: bool = False,
        paths: Sequence[str] | None = None,
        name: str = "layerwise_sgd",
    ) -> None:
        rules = {"pulls": pulls, "adaptive": adaptive, "paths": paths}
        super().__init__(learning_rate, multipliers, decays, **rules, name=name)
        self.momentum = momentum
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1. Received: {momentum}.")

    def _add_slots(self, variables):
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        return self.velocities

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move one variable and its velocity."""
        index = self._get_variable_index(variable)
        velocity = self.velocities[index]
        rate = self._rate(index, variable, learning_rate)
        gradient = self._gradient(index, gradient, variable)
        step = ops.subtract(ops.multiply(velocity, self.momentum), ops.multiply(gradient, rate))
        self.assign(velocity, step)
        self.assign_add(variable, step)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return super().get_config() | {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="medxfer")
class LayerwiseAdam(_Layerwise):
    """Adam (Kingma and Ba 2015, algorithm 1) with the rules of :class:`LayerwiseSGD`.

    In step t, with g' the gradient with decay and pull::

        M <- beta_1 * M + (1 - beta_1) * g'
        S <- beta_2 * S + (1 - beta_2) * g'**2
        w <- w - learning_rate * m * (M / (1 - beta_1**t)) / (sqrt(S / (1 - beta_2**t)) + epsilon)

    The multiplier scales the update: Adam would divide a factor on the gradient out again.

    Parameters
    ----------
    learning_rate, multipliers, decays, pulls, adaptive, paths
        As in :class:`LayerwiseSGD`; decay is coupled as well (not AdamW's).
    beta_1, beta_2 : float
        At least 0 and below 1.
    epsilon : float
        Above 0.
    """

    def __init__(
        self,
        learning_rate: float,
        multipliers: Mapping[str, float],
        decays: Mapping[str, float] | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        pulls: Mapping[str, tuple[str, float]] | None = None,
        adaptive: bool = False,
        paths: Sequence[str] | None = None,
        name: str = "layerwise_adam",
    ) -> None:
        rules = {"pulls": pulls, "adaptive": adaptive, "paths": paths}
        super().__init__(learning_rate, multipliers, decays, **rules, name=name)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1 and epsilon > 0):
            raise ValueError("beta_1 and beta_2 must be in [0, 1) and epsilon above 0.")

    def _add_slots(self, variables):
        self.means, self.squares = self.add_optimizer_variables(variables, ["mean", "square"])
        return [*self.means, *self.squares]

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move one variable and its moments."""
        index = self._get_variable_index(variable)
        mean, square = self.means[index], self.squares[index]
        rate = self._rate(index, variable, learning_rate)
        gradient = self._gradient(index, gradient, variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        unbias_1 = 1 - ops.power(ops.cast(self.beta_1, variable.dtype), step)
        unbias_2 = 1 - ops.power(ops.cast(self.beta_2, variable.dtype), step)
        first = mean * self.beta_1 + gradient * (1 - self.beta_1)
        second = square * self.beta_2 + ops.square(gradient) * (1 - self.beta_2)
        self.assign(mean, first)
        self.assign(square, second)
        root = ops.sqrt(second / unbias_2) + self.epsilon
        self.assign_sub(variable, rate * (first / unbias_1) / root)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def for_stage(
    groups: Mapping[str, Sequence[keras.Layer]],
    stage: Stage,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> LayerwiseSGD | LayerwiseAdam:
    """The optimizer of one stage, built on the trainable variables of its groups.

    Biases take ``stage.bias_multiplier`` on top of their group's multiplier; only kernels decay
    (the decay multipliers 1 and 0 of Caffe's published networks), those under ``stage.penalty``
    towards their values of now. Velocities and moments start at 0.

    Parameters
    ----------
    groups : mapping of str to sequence of keras.Layer
        Layer groups whose ``trainable`` flags already follow the stage; see
        :func:`medxfer.tuning.freezing.freeze`.
    stage : Stage
        Multipliers, base rate and rules.
    momentum, weight_decay : float
        As in :class:`LayerwiseSGD`, of which Adam takes the second; ``stage.weight_decay`` goes
        before.
    """
    decay = weight_decay if stage.weight_decay is None else stage.weight_decay
    penalty = stage.penalty
    variables, multipliers, decays, pulls = [], {}, {}, {}
    for group, layers in groups.items():
        for variable in (v for layer in layers for v in layer.trainable_variables):
            factor = stage.bias_multiplier if variable.name == "bias" else 1.0
            multipliers[variable.path] = stage.multipliers[group] * factor
            if variable.name == "kernel":
                if penalty and group in penalty.groups:
                    pulls[variable.path] = (penalty.norm, penalty.strength)
                else:
                    decays[variable.path] = decay
            variables.append(variable)
    rules = {"pulls": pulls, "adaptive": stage.adaptive is not None}
    if stage.optimizer == "adam":
        optimizer = LayerwiseAdam(stage.base_rate, multipliers, decays, **rules)
    else:
        optimizer = LayerwiseSGD(stage.base_rate, multipliers, decays, momentum, **rules)
    optimizer.build(variables)
    return optimizer
