"""What preparing data is told, and what it tells afterwards."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence

from absl import logging

from data_prep import splits

#: Where the work on studies runs: on this machine, or where Apache Beam runs it.
RUNNERS = ("local", "beam")


@dataclasses.dataclass(frozen=True)
class Options:
    """The shared flags as values, so that code can prepare data without a command line.

    Attributes
    ----------
    output : path
        Dataset folder to write. The work folder is ``OUTPUT.partial`` beside it.
    key : bytes
        Key of the pseudonyms (see :func:`data_prep.splits.secret_key`).
    runner : str
        One of :data:`RUNNERS`.
    runner_options : sequence of str
        Options of Apache Beam, as on its command lines.
    link_table : path or None
        Table from original names to pseudonyms, for the owner of the data.
    split_table : path or None
        Table of who is in which part (see :mod:`data_prep.split_table`).
    parts : mapping or None
        Subject pseudonym -> "train", "validation" or "test", where that is already decided.
    """

    output: pathlib.Path
    key: bytes
    seed: int = 0
    workers: int = 1
    runner: str = "local"
    runner_options: Sequence[str] = ()
    strict: bool = False
    link_table: pathlib.Path | None = None
    test_fraction: float = 0.5
    validation_fraction: float = 0.2
    folds: int | None = None
    fold: int | None = None
    split_table: pathlib.Path | None = None
    parts: Mapping[str, str] | None = None

    @property
    def divided(self) -> bool:
        """Whether there is to be more than a test part."""
        return self.test_fraction < 1 or self.folds is not None

    def split_settings(self) -> dict:
        """Settings that decide who is in which split, and in what order."""
        names = "seed", "test_fraction", "validation_fraction", "folds", "fold"
        settings = {name: getattr(self, name) for name in names}
        if self.split_table is not None:  # of pseudonyms: the table itself holds names
            said = json.dumps(sorted((self.parts or {}).items()))
            settings["split_table"] = hashlib.sha256(said.encode()).hexdigest()[:12]
        return settings

    def complete(self, said: Mapping[str, str]) -> dict[str, str]:
        """Subject -> part as it is said; who validates is drawn from the others where none does."""
        train = [subject for subject, part in said.items() if part == "train"]
        if "validation" in said.values() or not train:
            return dict(said)
        return said | splits.assign(train, f"split {self.seed}", 0.0, self.validation_fraction)

    def assign(self, subjects: Collection[str]) -> dict[str, str]:
        """Subject -> part: as decided, else by :func:`data_prep.splits.assign`."""
        if self.parts is not None:
            kept = {subject: self.parts[subject] for subject in subjects}
            for part in sorted(set(self.parts.values()).difference(kept.values())):
                logging.warning("No study of the %s part could be used: it is empty.", part)
            return kept
        return splits.assign(
            subjects,
            f"split {self.seed}",
            self.test_fraction,
            self.validation_fraction,
            self.folds,
            self.fold,
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What :func:`data_prep.command.prepare` did.

    Attributes
    ----------
    output : path
    prep : dict
        Content of ``prep.json``.
    reused : bool
        The dataset was complete before.
    names : dict
        Case pseudonym -> original name: for the terminal only.
    details : dict
        Case pseudonym -> why the study was skipped, original names included: for the terminal only.
        Empty when the dataset was complete before.
    link_table : path or None
    """

    output: pathlib.Path
    prep: dict
    reused: bool
    names: Mapping[str, str]
    details: Mapping[str, str]
    link_table: pathlib.Path | None
