"""One run, as one frozen value: JSON in, JSON out."""

import dataclasses
import json
import pathlib
from collections.abc import Collection

from data_prep.errors import UserError
from medxfer import plugins

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
MAPS = ("dense", "coarse_to_fine", "patchwise")
CACHES = ("auto", "memory", "disk", "none")
INITS = ("gaussian", "xavier", "msra")
DISTRIBUTIONS = ("auto", "one", "mirrored", "multi_worker")
OPTIMIZERS = ("auto", "sgd", "adam")
SCHEDULES = ("staircase", "cosine")
STRATEGY_SETTINGS = ("common", "authors")
BATCH_NORMS = ("frozen", "affine", "stats_only", "train")
HEAD_STARTS = ("random", "lp")
BALANCES = ("none", "weights", "sampling")
WEIGHTS_INPUTS = ("auto", "network", "torch", "caffe")
NAMED_WEIGHTS = ("imagenet", "none")  # anything else is the path of a file


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run.

    Rates, momentum, decay and schedule are those of Tajbakhsh et al. 2016, Table II, and, where
    the paper is silent, of Caffe's fine-tuning recipe; see the comment beside each.
    """

    app: str
    tune: str = "fc6"
    model: str = "alexnet"
    input_side: int = 0  # pixels; 0: the side that the network was made for
    weights: str = "imagenet"
    weights_input: str = "auto"  # what images a file of weights was made for
    init: str = "gaussian"  # of layers without pre-trained weights
    data: str = ""  # folder of records; empty: the app's phantom
    seed: int = 0
    fraction: float = 1.0  # share of the training subjects, and of the validation subjects
    epochs: int = 30  # at most; the best validation epoch is kept
    patience: int = 5  # epochs without a better validation score before training ends
    batch_size: int = 50  # global: over all replicas and workers (Caffe's fine-tuning recipe)
    base_rate: float = 0.001  # Table II
    new_multiplier: float = 10.0  # Table II: fc8 .01 beside .001
    bias_multiplier: float = 2.0  # paper: bias rate twice the weight rate
    momentum: float = 0.9  # Table II
    gamma: float = 0.95  # Table II: factor on the rate after every epoch
    weight_decay: float = 5e-4  # Caffe's; on kernels only, coupled
    optimizer: str = "auto"  # sgd, but adam for what its authors train so, see strategy_settings
    schedule: str = "staircase"  # gamma after every epoch, Table II; or cosine, without gamma
    # Whether a strategy whose authors had an optimizer, decay or schedule of their own has theirs;
    # or common: those above. This default is that of earlier versions; see with_strategy_settings.
    strategy_settings: str = "authors"
    # Batch normalisation in groups with pre-trained weights; in others it is trained.
    freeze_bn: str = "frozen"  # safest on small sets; or affine, stats_only, train
    head_init: str = "random"  # or lp: strategies begin with the head of a linear probe
    head_first: bool = True  # gradual unfreezing begins with the head alone
    l2_sp_alpha: float = 0.1  # pull of l2_sp towards the start (Li et al., ICML 2018)
    l1_sp_alpha: float = 0.001  # the same of l1_sp
    sp_beta: float = 0.01  # weight decay of new layers under both (Li et al., ICML 2018)
    exclude_head: bool = False  # auto_rgn: the head has factor 1 and no part in the maximum
    dropout: float = 0.5
    # Of classes of unequal size; or weights, sampling. None, so that probabilities stay calibrated.
    balance: str = "none"
    precision: str = "auto"
    maps: str = "dense"  # how regions are scored, see medxfer.dense
    distribute: str = "auto"
    cache: str = "auto"  # of what frozen layers compute: auto, memory, disk, none
    cache_dtype: str = "float32"  # or float16
    cache_gib: float = 8.0  # at most so much memory (memory) or disk (disk)

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, rule: str) -> None:
            if not condition:
                value = getattr(self, name)
                raise UserError(f"--{name} must be {rule}. Received: {value!r}.")

        need(0 < self.fraction <= 1, "fraction", "above 0 and at most 1")
        side = self.input_side
        need(side == 0 or side >= 32, "input_side", "0 (the network's own) or at least 32 pixels")
        need(self.epochs >= 1, "epochs", "at least 1")
        need(self.patience >= 1, "patience", "at least 1")
        need(self.batch_size >= 1, "batch_size", "at least 1")
        need(self.base_rate > 0, "base_rate", "above 0")
        need(self.new_multiplier > 0, "new_multiplier", "above 0")
        need(self.bias_multiplier > 0, "bias_multiplier", "above 0")
        need(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        need(0 < self.gamma <= 1, "gamma", "above 0 and at most 1")
        need(self.weight_decay >= 0, "weight_decay", "at least 0")
        need(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        need(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        known = ", ".join(STRATEGY_SETTINGS)
        need(self.strategy_settings in STRATEGY_SETTINGS, "strategy_settings", f"one of {known}")
        need(self.freeze_bn in BATCH_NORMS, "freeze_bn", f"one of {', '.join(BATCH_NORMS)}")
        need(self.head_init in HEAD_STARTS, "head_init", f"one of {', '.join(HEAD_STARTS)}")
        need(self.l2_sp_alpha >= 0, "l2_sp_alpha", "at least 0")
        need(self.l1_sp_alpha >= 0, "l1_sp_alpha", "at least 0")
        need(self.sp_beta >= 0, "sp_beta", "at least 0")
        need(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        need(self.balance in BALANCES, "balance", f"one of {', '.join(BALANCES)}")
        inputs = WEIGHTS_INPUTS
        need(self.weights_input in inputs, "weights_input", f"one of {', '.join(inputs)}")
        need(self.init in INITS, "init", f"one of {', '.join(INITS)}")
        known = ", ".join(DISTRIBUTIONS)
        need(self.distribute in DISTRIBUTIONS, "distribute", f"one of {known}")
        need(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        need(self.maps in MAPS, "maps", f"one of {', '.join(MAPS)}")
        need(self.cache in CACHES, "cache", f"one of {', '.join(CACHES)}")
        need(self.cache_dtype in ("float32", "float16"), "cache_dtype", "float32 or float16")
        need(self.cache_gib > 0, "cache_gib", "above 0")
        need(0 <= self.seed < 2**31, "seed", "from 0 to 2147483647")

    def save(self, path: pathlib.Path) -> None:
        """Write as JSON, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Config":
        """Read what :meth:`save` wrote.

        Raises
        ------
        UserError
            If the file is absent, is not JSON, or holds unknown or wrong settings.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is not a readable run configuration: {error}.") from error
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else ["not a table"]
        if unknown:
            raise UserError(f"{path} holds unknown settings: {', '.join(unknown)}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"{path} is not a whole run configuration: {error}.") from error


def own_settings(tune: str) -> dict:
    """Settings that the authors of a strategy had of their own: its ``AUTHORS``; else none."""
    try:
        return plugins.constant("medxfer.tuning.strategies", tune, "AUTHORS")
    except (UserError, LookupError):  # a depth, scratch, or nothing of its own
        return {}


def with_strategy_settings(config: Config, settings: str, given: Collection[str] = ()) -> Config:
    """The configuration with one of :data:`STRATEGY_SETTINGS`; without own ones it is the same.

    Parameters
    ----------
    config : Config
    settings : str
    given : collection of str
        Settings that somebody asked for: they go before those of the authors.

    Raises
    ------
    UserError
        If a setting is given that only the authors' settings have.
    """
    own = own_settings(config.tune)
    if not own:
        return config
    if settings == "authors":
        if not set(given).intersection(own):
            return dataclasses.replace(config, strategy_settings="authors")
        rest = {name: value for name, value in own.items() if name not in given}
        return dataclasses.replace(config, **rest, strategy_settings="common")
    if config.tune in ("l1_sp", "l2_sp") and config.sp_beta != Config.sp_beta:
        raise UserError(
            f"--sp_beta is the decay that the authors of {config.tune} have: give "
            "--strategy_settings=authors as well, or --weight_decay instead."
        )
    return dataclasses.replace(config, strategy_settings="common")
