"""Run folders: where one run keeps its configuration, weights, numbers and figures.

``config.json`` is written first and ``run_card.json`` last: a folder with a run card is finished.
What the card says of the training lies in ``training.json`` until then: such a run can be used.
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence

from data_prep import locks
from data_prep.errors import UserError
from medxfer.config import Config

CONFIG = "config.json"

#: Settings of the machine, which may differ whenever a run is used.
MACHINE = ("distribute", "cache", "cache_dtype", "cache_gib")

#: Settings that versions after the first one added. What was named before them keeps its name, so
#: that a study begun with an earlier version goes on.
LATER = ("maps", "weights_input", "schedule", "strategy_settings")


TRAINED = "training.json"


def cache_folder() -> pathlib.Path:
    """Folder of what can be made or fetched again: ``MEDXFER_CACHE``, else the user's cache."""
    if chosen := os.environ.get("MEDXFER_CACHE"):
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "medxfer"


def naming(config: Config) -> dict:
    """Settings that the name of a run stands for: those of :data:`LATER` where they differ."""
    return {
        field.name: value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default or field.name not in LATER
    }


def default_name(config: Config) -> str:
    """Name of a run that was given none: legible, and different for different settings."""
    digest = hashlib.sha256(json.dumps(naming(config), sort_keys=True).encode())
    return f"{config.app}-{config.model}-{config.tune}-{digest.hexdigest()[:8]}"


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Write a file whole or not at all: under the name given here, which becomes ``path``.

    That name is new every time, so that who writes the same file meanwhile is not disturbed.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: pathlib.Path

    @property
    def finished(self) -> bool:
        """Whether training and evaluation came to their end."""
        return (self.path / "run_card.json").is_file()

    @property
    def trained(self) -> bool:
        """Whether training came to its end, but not yet what follows."""
        return (self.path / TRAINED).is_file()

    @property
    def weights(self) -> pathlib.Path:
        """Weights of the best validation epoch."""
        return self.path / "checkpoints" / "best.weights.h5"

    @property
    def assets(self) -> pathlib.Path:
        """Folder of the files that came with the records, which predicting needs again."""
        return self.path / "assets"

    def keep(self, assets: Mapping[str, pathlib.Path]) -> None:
        """Copy the assets of the records, name -> file."""
        for name, source in assets.items():
            self.assets.mkdir(exist_ok=True)
            with whole(self.assets / name) as partial:
                shutil.copyfile(source, partial)

    @property
    def card(self) -> dict:
        """The run card of a finished run, or what is known of one that is only trained.

        Raises
        ------
        UserError
            If the run is absent or not trained.
        """
        known = self.path / ("run_card.json" if self.finished or not self.trained else TRAINED)
        try:
            return json.loads(known.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path} is not a finished run: it has no readable run_card.json. Train it "
                "first, or give the folder of another run with --run."
            ) from error

    def check(self, config: Config) -> None:
        """Make sure that a run of these settings can begin or go on here; writes nothing.

        Raises
        ------
        UserError
            If the folder belongs to a run with other settings or is no run folder.
        """
        place = self.path / "config.json"
        if place.exists():
            earlier = Config.load(place)
            changed = [
                f"{field.name} was {getattr(earlier, field.name)!r}"
                for field in dataclasses.fields(Config)
                if getattr(earlier, field.name) != getattr(config, field.name)
            ]
            if changed:
                raise UserError(
                    f"{self.path} holds a run with other settings ({'; '.join(changed)}). Give "
                    "this run another name with --run."
                )
        elif self.path.exists() and not (self.path.is_dir() and self._is_blank()):
            raise UserError(
                f"{self.path} is not empty and is no run folder. Give another name with --run."
            )

    def require_agreement(self, given: Mapping[str, object], own_data: bool) -> None:
        """Make sure that settings do not contradict those that this run was trained with.

        Parameters
        ----------
        given : mapping
            Field of :class:`Config` -> what the user says.
        own_data : bool
            Whether ``data`` must be the run's own.

        Raises
        ------
        UserError
            If one differs.
        """
        config = Config.load(self.path / CONFIG)
        for name, value in given.items():
            own = getattr(config, name)
            if name in MACHINE or (name == "data" and not own_data) or value == own:
                continue
            if (
                name == "data"
                and own
                and pathlib.Path(own).resolve() == pathlib.Path(value).resolve()
            ):
                continue
            raise UserError(
                f"--{name}={value} contradicts the run {self.path}, which has {name} {own!r}: "
                f"omit --{name}, or give another run."
            )

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes out of the folder meanwhile (see :mod:`data_prep.locks`).

        Raises
        ------
        UserError
            On entry, if one is there.
        """
        instead = "Wait until it has ended, or give this run another name with --run."
        return locks.hold(self.path, instead)

    def begin(self, config: Config) -> None:
        """Make the folder, or go on in the folder of an interrupted run of the same settings.

        Raises
        ------
        UserError
            As in :meth:`check`.
        """
        self.check(config)
        place = self.path / "config.json"
        if not place.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            config.save(place)

    def require_inputs(self, data: str, weights: str, write: bool = True) -> None:
        """Make sure that an interrupted run goes on with the data and weights it began with.

        Parameters
        ----------
        data, weights : str
            Fingerprint of the records, and hash of the weights that were loaded, if any.
        write : bool
            Note them where the run has only begun; of several processes one does that.

        Raises
        ------
        UserError
            If it began with others.
        """
        given = {"data": data, "weights": weights}
        try:
            earlier = json.loads((self.path / "inputs.json").read_text())
        except (OSError, ValueError):
            if write:
                self.write_json("inputs.json", given)
            return
        changed = [name for name, value in given.items() if earlier.get(name) != value]
        if changed:
            raise UserError(
                f"{self.path} began with other {' and '.join(changed)}, which have changed at "
                "their place since. Give this run another name with --run."
            )

    def require_same_data(self, data: str) -> None:
        """Make sure that a finished run learnt from the records that are in the folder now.

        Raises
        ------
        UserError
            If they have been prepared anew since.
        """
        if not data:
            return
        try:
            now = json.loads((pathlib.Path(data) / "prep.json").read_text())["fingerprint"]
        except (OSError, ValueError, LookupError, TypeError):
            return  # the records are gone or damaged: the run's own numbers still hold
        if now != self.card["data"]["fingerprint"]:
            raise UserError(
                f"{self.path} is finished, but learnt from other records than {data} holds now. "
                "Give this run another name with --run."
            )

    def _is_blank(self) -> bool:
        """Whether nothing is there but what an interruption of :meth:`begin` may leave."""
        # The last appears while a worker looks that is not the one who writes it.
        left = {"config.partial", locks.FOLDER, "config.json"}
        return all(found.name in left for found in self.path.iterdir())

    def write_json(self, name: str, content: Mapping) -> pathlib.Path:
        """Write a JSON file, whole or not at all; numbers that are not finite become null."""
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        return self.write_text(name, text + "\n")

    def write_card(self, card: Mapping) -> None:
        """Write the run card: the run is finished."""
        self.write_json("run_card.json", card)
        (self.path / TRAINED).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> pathlib.Path:
        """Write a text file, whole or not at all."""
        path = self.path / name
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
        return path

    def write_table(self, name: str, rows: Sequence[Mapping]) -> pathlib.Path:
        """Write rows of equal keys as CSV, whole or not at all."""
        path = self.path / name
        with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
        return path


def place(name: str, folder: str) -> pathlib.Path:
    """Folder that ``--run=NAME`` means, in every mode: a path itself, a name one in ``folder``.

    Where ``folder`` has no run of that name and the working folder has, it is that one.
    """
    path = pathlib.Path(name)
    if os.sep in name or path.name in ("", ".."):
        return path
    below = pathlib.Path(folder) / name
    here = (path / CONFIG).is_file() and not (below / CONFIG).is_file()
    return path if here else below


def open_run(name: str, folder: str = ".") -> RunFolder:
    """An existing run by its name in ``folder``, or by its path.

    Raises
    ------
    UserError
        If there is none.
    """
    path = place(name, folder)
    if not (path / CONFIG).is_file():
        also = f" (nor is {name}, in the working folder)" if str(path) != name else ""
        raise UserError(
            f"{path} is no run folder{also}: it has no {CONFIG}. Give the folder that a training "
            "run named in its closing summary, for instance --run=runs/NAME."
        )
    return RunFolder(path)


def _finite(content: object) -> object:
    """A copy with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


#: What a later evaluation or export changes in a run card.
_LATER = ("comparison", "export", "metrics", "run_card_hash", "seconds")


def card_hash(card: Mapping) -> str:
    """SHA-256 of what a run card says of the training, hexadecimal.

    The same for a card in memory and in its file, and whatever is evaluated or exported later, so
    that an export can be traced to its run.
    """
    kept = {name: value for name, value in card.items() if name not in _LATER}
    return hashlib.sha256(json.dumps(_finite(kept), sort_keys=True).encode()).hexdigest()


def sha256(path: pathlib.Path) -> str:
    """Digest of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
