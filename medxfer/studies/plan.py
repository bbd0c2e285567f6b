"""What a study runs, as one file: depths, scratch, handcrafted, less data, several seeds.

Tajbakhsh et al. 2016, section IV: every depth of fine-tuning and training from scratch, on all the
training data and on less, beside the handcrafted counterpart.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from absl import logging

from data_prep import locks
from data_prep.errors import UserError
from medxfer import models, plugins, tuning
from medxfer.config import INITS, Config, with_strategy_settings
from medxfer.runs import RunFolder, naming
from medxfer.studies import amounts

COUNTERPART = "handcrafted"  # stands in ``Config.tune`` of a run of the classic methods
AUTO = "auto"
SCRATCH = "scratch"
#: A tuned run trains new layers at ten times its rate: scratch chooses among as much.
SCRATCH_RATES = (1.0, 3.0, 10.0)
NONE = "none"  # word for no depth among the depths
CALIBRATION = "calibration"  # folder of a study that holds what estimates come from

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes
    ----------
    name : str
        Of its folder: the same settings on the same data always give the same name.
    method : str
        As tables and figures call it; runs of one method differ in data and seed.
    share : str
        The training data in words: ``100 %``, ``25 %``, ``one subject``.
    subjects : int
        Number of training subjects.
    config : Config
    """

    name: str
    method: str
    share: str
    subjects: int
    config: Config

    @property
    def is_counterpart(self) -> bool:
        """Whether this is a run of the classic methods, without a network."""
        return self.config.tune == COUNTERPART


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a study, in the order in which they are done.

    Attributes
    ----------
    app, fingerprint : str
        Application, and hash of the records.
    runs : tuple of Planned
    notes : tuple of str
        What was left out and why.
    whole : str
        Where runs were left out for want of time, a hash of the plan with them and of the time;
        else empty.
    """

    app: str
    fingerprint: str
    runs: tuple[Planned, ...]
    notes: tuple[str, ...] = ()
    whole: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in order."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    @property
    def shares(self) -> tuple[str, ...]:
        """Amounts of training data, in order."""
        return tuple(dict.fromkeys(run.share for run in self.runs))

    def placed(self, data: str) -> "Plan":
        """The same plan where the records lie elsewhere, which changes no name."""
        moved = (
            dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
            for run in self.runs
        )
        return dataclasses.replace(self, runs=tuple(moved))

    def to_json(self) -> dict:
        """Plain values for a file."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def load(cls, path: pathlib.Path) -> "Plan":
        """Read a plan file.

        Raises
        ------
        UserError
            If it is absent or no plan.
        """
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != _FORMAT:
                raise ValueError("another format")
            runs = []
            for entry in content.pop("runs"):
                config = Config(**entry.pop("config"))
                runs.append(Planned(config=config, **entry))
            notes = tuple(content.pop("notes"))
            plan = cls(**content, runs=tuple(runs), notes=notes)
        except UserError as error:
            raise UserError(f"{path} holds a setting that is not allowed: {error}") from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no plan of a study ({error}): make one with --dry_run."
            ) from error
        for run in plan.runs:
            if run.name != name_of(run.method, run.share, run.config, plan.fingerprint):
                raise UserError(
                    f"{path}: run {run.name} does not have the settings that its name stands for. "
                    "Make the plan anew with --dry_run and the flags you want."
                )
        return plan


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps its plan, runs, claims and results."""

    path: pathlib.Path

    @property
    def plan_file(self) -> pathlib.Path:
        """The plan, JSON."""
        return self.path / "plan.json"

    @property
    def claims(self) -> pathlib.Path:
        """Folder of the claims on runs, shares and turns."""
        return self.path / "claims"

    def run(self, name: str) -> RunFolder:
        """Folder of a run."""
        return RunFolder(self.path / "runs" / name)

    def log(self, name: str) -> pathlib.Path:
        """What a run said while it went on."""
        return self.path / "logs" / f"{name}.log"

    def failure(self, name: str) -> pathlib.Path:
        """Why the last attempt at a run failed; absent if it did not."""
        return self.path / "failures" / f"{name}.json"

    def begun(self) -> Plan | None:
        """The plan that is there; None if there is none that this version can read."""
        try:
            return Plan.load(self.plan_file)
        except UserError:
            return None

    def finished(self, planned: Planned, fingerprint: str) -> bool:
        """Whether the run is done, with these settings and on these records.

        Where the records lie is of no importance, their hash is.
        """
        run = self.run(planned.name)
        if not run.finished:
            return False
        try:
            same = without_path(Config.load(run.path / "config.json")) == without_path(
                planned.config
            )
            return same and run.card["data"]["fingerprint"] == fingerprint
        except (UserError, LookupError, TypeError):
            return False

    def hold(self, shard: tuple[int, int], age: float) -> contextlib.AbstractContextManager[None]:
        """Keep a second process from doing the same share (index, count) meanwhile.

        Raises
        ------
        UserError
            On entry, if one does it.
        """
        index, count = shard
        instead = "Each process needs a share of its own (--shard=i/n), or wait until it has ended."
        return self._hold(f"share-{index}-of-{count}", instead, age)

    @contextlib.contextmanager
    def turn(self, name: str, age: float = locks.AGE, poll: float = 0.5) -> Iterator[None]:
        """Let one process at a time into the block; the others wait.

        Parameters
        ----------
        name : str
            Of what is done there.
        age, poll : float
            Seconds after which a silent holder's turn is over, and between looks.
        """
        waits = False
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._hold(name, "Waiting for it.", age))
                    break
                except UserError as held:
                    if not waits:
                        logging.info("%s", held)
                    waits = True
                    time.sleep(poll)
            yield

    def _hold(self, name: str, instead: str, age: float) -> contextlib.AbstractContextManager[None]:
        return locks.hold(self.path, instead, place=self.claims, name=name, age=age)

    def check_place(self) -> None:
        """See that the folder is a study's, or free for one.

        Raises
        ------
        UserError
            If something else is there.
        """
        if self.plan_file.exists() or not self.path.exists():
            return
        # Other shards may begin at this moment, and write the plan.
        early = (CALIBRATION, self.claims.name)
        if any(
            path.name not in early and not path.name.startswith(self.plan_file.name)
            for path in self.path.iterdir()
        ):
            raise UserError(f"{self.path} is not empty and holds no study: give another --output.")

    def write_plan(self, plan: Plan, shared: bool) -> None:
        """Write the plan file, unless the same plan is there.

        Where the records lie is no difference: machines may find them at different places. To be
        called in a :meth:`turn` where several processes may do so.

        Raises
        ------
        UserError
            If another plan is there and ``shared``: machines that share a plan need the same one.
        """
        if self.plan_file.exists():
            begun = self.begun()
            if begun == plan:
                return
            if begun and begun.placed("") == plan.placed(""):
                if shared:
                    return
            elif shared:
                raise UserError(
                    f"{self.plan_file} is another plan: start every shard with the same flags on "
                    "the same records, or give another --output."
                )
            else:
                logging.info("The plan has changed; finished runs that belong to it are kept.")
        else:
            self.check_place()
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plan.to_json(), indent=1) + "\n"
        RunFolder(self.path).write_text(self.plan_file.name, text)


def without_path(config: Config) -> dict:
    """Settings of a run apart from where its records lie."""
    return {**dataclasses.asdict(config), "data": ""}


def name_of(method: str, share: str, config: Config, fingerprint: str) -> str:
    """Name of a run: legible, and different for different settings or records."""
    facts = json.dumps([{**naming(config), "data": ""}, fingerprint], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    words = (method, share.replace(" %", ""), f"s{config.seed}", digest)
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("_") for word in words)


def make(
    base: Config,
    fingerprint: str,
    train_subjects: int,
    *,
    groups: Mapping[str, Sequence[str]],
    new: Mapping[str, Sequence[str]] | None = None,
    depths: Sequence[str] = (),
    inits: Sequence[str] = INITS,
    own_inits: Mapping[str, str] | None = None,
    strategies: Sequence[str] = (),
    rates: Sequence[float] = (),
    scratch_rates: Sequence[float] = (),
    own_rates: Mapping[str, float] | None = None,
    shares: Sequence[str] = ("1",),
    seeds: int = 1,
    counterpart_learns: bool = True,
    strategy_settings: str = "common",
    given: Collection[str] = (),
) -> Plan:
    """The plan of a study.

    Every depth, every strategy and scratch, for each network, amount of data and seed. Further
    initialisers of scratch are tried on all the data only. The classic counterpart is run once for
    each amount of data, and once in all if it learns nothing from the records.

    Parameters
    ----------
    base : Config
        Settings common to all runs; its seed is the first of the seeds.
    fingerprint : str
        Hash of the records.
    train_subjects : int
    groups : mapping from network to layer groups, input to head
    new : mapping from network to groups without pre-trained weights
        By default the head alone. Depths that are the same training are done once; a note says so.
    depths : sequence of str
        Layer groups to tune from; empty: all; ``none`` alone: no depth, strategies only.
    inits : sequence of str
        Of scratch; the first one serves the smaller amounts of data. Empty: no training from
        scratch.
    own_inits : mapping from network to initialiser
        Which of ``inits`` is the first of a network; by default the one that is written first.
    strategies : sequence of str
        Further values of ``--tune``.
    rates : sequence of float
        Base learning rates that every network is trained with; of each method, amount of data and
        seed the one with the best validation score is compared. Empty: that of ``own_rates``.
    scratch_rates : sequence of float
        The same of training from scratch. Empty: ``rates``, if there are several, else
        :data:`SCRATCH_RATES` times the one rate.
    own_rates : mapping from network to rate
        By default that of ``base`` for all.
    shares : sequence of str
        See :func:`medxfer.studies.amounts.fractions`.
    seeds : int
        Number of seeds.
    counterpart_learns : bool
    strategy_settings, given
        See :func:`medxfer.config.with_strategy_settings`.

    Raises
    ------
    UserError
        If a depth or a share is unknown, or nothing is left to run.
    """
    if no_depths := list(depths) == [NONE]:
        depths = ()
    for model, names in groups.items():
        if strange := [depth for depth in depths if depth not in names]:
            valid = ", ".join(reversed(names))
            raise UserError(f"{model} has no layer group {strange[0]}. Valid: {valid}.")
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1. Received: {seeds}.")
    chosen_amounts, notes = amounts.fractions(shares, train_subjects)
    if base.weights == "none" and (depths or strategies):
        logging.warning("With --weights=none, fine-tuning starts from random weights.")
    chosen = {
        model: {} if no_depths else tuning.distinct(names, (new or {}).get(model, ()), depths)
        for model, names in groups.items()
    }
    notes += [
        f"{model}: {' and '.join(others)} would be the same training as {depth}, since the weights "
        "hold nothing for the layers between, which are therefore trained at any depth; left out."
        for model, kept in chosen.items()
        for depth, others in kept.items()
        if others
    ]
    one_side = [m for m in groups if base.input_side and not models.any_side(m)]
    notes += [
        f"{m} takes images of its own size only: --input_side is not for it." for m in one_side
    ]
    runs: dict[str, Planned] = {}  # what is asked for twice is done once

    @functools.cache
    def by_rate(model: str, tune: str) -> bool:
        if tune == COUNTERPART:
            return False
        if tune not in strategies or tune == AUTO:
            return True
        own = (new or {}).get(model, groups[model][-1:])
        stages = tuning.stages_for(tune, groups[model], base, own)
        return not all(stage.head for stage in stages)  # heads are solved for

    def add(method: str, amount: tuple[str, float, int], **changes: object) -> None:
        share, fraction, subjects = amount
        own_rate = (own_rates or {}).get(changes["model"], base.base_rate)
        tried = dict.fromkeys(rates or [own_rate])
        if len(tried) > 1 and not by_rate(changes["model"], changes["tune"]):
            tried = [own_rate]
        if changes["tune"] == SCRATCH:
            few = [float(f"{factor * rate:.6g}") for rate in tried for factor in SCRATCH_RATES]
            tried = dict.fromkeys(scratch_rates or (tried if len(tried) > 1 else few))
        for rate in tried:
            side = 0 if changes["model"] in one_side else base.input_side
            own = {"fraction": fraction, "base_rate": rate, "input_side": side, **changes}
            config = dataclasses.replace(base, **own)
            config = with_strategy_settings(config, strategy_settings, given)
            name = name_of(method, share, config, fingerprint)
            runs.setdefault(name, Planned(name, method, share, subjects, config))

    largest = chosen_amounts[0]
    for seed in range(base.seed, base.seed + seeds):
        for amount in chosen_amounts:
            for model in groups:
                prefix = f"{model} " if len(groups) > 1 else ""
                for tune in (*chosen[model], *strategies):
                    add(prefix + tune, amount, tune=tune, model=model, seed=seed)
                own = (own_inits or {}).get(model)
                starts = sorted(inits, key=lambda init: init != own)
                for init in starts if amount is largest else starts[:1]:
                    method = f"{prefix}{SCRATCH} ({init})"
                    add(method, amount, tune=SCRATCH, model=model, init=init, seed=seed)
            if seed == base.seed and (amount is largest or counterpart_learns):
                add(COUNTERPART, amount, tune=COUNTERPART, seed=seed, model="", weights="none")
    if len(runs) <= len(chosen_amounts):
        raise UserError("The study has no network to train: give --depths, --inits or --strategies")
    return Plan(base.app, fingerprint, tuple(runs.values()), tuple(notes))


def counterpart_learns(app: str) -> bool:
    """Whether the classic methods of an app learn from the records: whether they need them."""
    signature = inspect.signature(plugins.load("medxfer.apps", app).counterparts)
    return signature.parameters["folder"].default is inspect.Parameter.empty
