"""The folder that ``data_prep`` wrote: what is in it, and whether it is whole."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Collection

import tensorflow as tf

from data_prep import splits
from data_prep.errors import UserError

#: What to do where a split lacks.
_REMEDIES = {
    "train": "prepare the data with --test_fraction below 1",
    "validation": "training needs one to choose the best epoch, so prepare the data with "
    "--validation_fraction above 0 and enough subjects",
    "test": "prepare the data with --test_fraction above 0, or give other data with --data",
}


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetFolder:
    """A folder that `data_prep` wrote. Make one with :meth:`open`.

    Attributes
    ----------
    path : path
    app : str
    classes : tuple of str
    channels : int
        Of the images: 1 or 3.
    extras : dict
        The app's own features, name -> kind.
    settings : dict
        With which the data was prepared.
    truth : dict
        Split -> case -> what is true of it.
    findings : dict
        What was found out of the sources as a whole; the app's own.
    fingerprint : str
        Hash of the records and of all that they were made from.
    key_id : str
        Which key the pseudonyms have.
    excluded : frozenset of str
        Subjects that evaluation leaves out, see :meth:`without`.
    """

    path: pathlib.Path
    app: str
    classes: tuple[str, ...]
    channels: int
    extras: dict[str, str]
    settings: dict
    truth: dict
    findings: dict
    fingerprint: str
    key_id: str
    _splits: dict[str, dict] = dataclasses.field(repr=False)
    excluded: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: str | pathlib.Path, app: str | None = None) -> "DatasetFolder":
        """Open a dataset folder and check that it is whole.

        Raises
        ------
        UserError
            If the folder is absent, empty, no dataset or of another app, if shards are missing or
            left over, or if a subject lies in two parts.
        """
        path = pathlib.Path(path)
        if not path.is_dir() or not any(path.iterdir()):
            state = "is empty" if path.is_dir() else "does not exist or is no folder"
            raise UserError(f"{path} {state}: make it with python -m data_prep.{app or 'APP'}.")
        try:
            prep = json.loads((path / "prep.json").read_text())
            truth = json.loads((path / "truth.json").read_text())
            folder = cls(
                path=path,
                app=prep["app"],
                classes=tuple(prep["classes"]),
                channels=prep["channels"],
                extras=prep["extras"],
                settings=prep["settings"],
                truth=truth,
                findings=prep.get("findings", {}),
                fingerprint=prep["fingerprint"],
                key_id=prep.get("key_id", ""),
                _splits=prep["splits"],
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path} is no dataset folder of data_prep ({error}): prepare it again."
            ) from error
        if app is not None and folder.app != app:
            raise UserError(f"{path} holds data of app '{folder.app}', not of '{app}'.")
        for split in folder.splits:
            expected = {file.name for file in folder.files(split)}
            present = {file.name for file in path.glob(f"{folder.app}-{split}.tfrecord-*")}
            if expected != present:
                wrong = sorted(expected ^ present)[0]
                state = "is missing" if wrong in expected else "does not belong to it"
                raise UserError(f"{path}: {wrong} {state}. Copy the folder again, whole.")
        splits.require_disjoint(
            {split: folder.subjects(split) for split in folder.splits},
            {split: folder._splits[split]["part"] for split in folder.splits},
        )
        return folder

    @property
    def assets(self) -> dict[str, pathlib.Path]:
        """Files beside the records that predicting needs again, by name."""
        found = sorted((self.path / "assets").glob("*"))
        return {path.name: path for path in found if path.is_file()}

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes, or none."""
        return self.settings.get("multilabel", False)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        return self._split(split)["examples"]

    def subjects(self, split: str) -> list[str]:
        """Pseudonyms of a split's subjects, also of those without any example; sorted."""
        return self._split(split)["subjects"]

    def without(self, split: str, subjects: Collection[str], examples: int) -> "DatasetFolder":
        """The same folder whose ``split`` has no example of these subjects, ``examples`` in all.

        Files stay as they are: :func:`medxfer.data.units` passes over the subjects.
        """
        left = [subject for subject in self.subjects(split) if subject not in subjects]
        truth = {
            case: fact
            for case, fact in self.truth[split].items()
            if fact["subject"] not in subjects
        }
        own = {**self._split(split), "subjects": left, "examples": examples}
        return dataclasses.replace(
            self,
            truth={**self.truth, split: truth},
            excluded=frozenset(subjects),
            _splits={**self._splits, split: own},
        )

    def has(self, split: str) -> bool:
        """Whether a split has examples."""
        return split in self._splits and self.count(split) > 0

    def require(self, *needed: str) -> None:
        """Raise UserError unless these splits have examples."""
        for split in needed:
            if not self.has(split):
                raise UserError(
                    f"{self.path} has no {split} part with examples: {_REMEDIES[split]}."
                )

    def files(self, split: str) -> list[pathlib.Path]:
        """Shards of a split in their order."""
        return [self.path / name for name in sorted(self._split(split)["sha256"])]

    def damaged(self) -> list[str]:
        """Compare every shard with its hash; what is wrong with each that differs.

        Slow, for a check before a long run.
        """
        found = []
        for split in self.splits:
            for path in self.files(split):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != self._splits[split]["sha256"][path.name]:
                    found.append(
                        damage(path) or f"{path} has changed since it was written: copy it again."
                    )
        return found

    def _split(self, split: str) -> dict:
        if split not in self._splits:
            raise UserError(f"{self.path} has no split '{split}', only {', '.join(self._splits)}.")
        return self._splits[split]


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset without TensorFlow's autotuner.

    Closing an iterator waits for the tuner's thread, whose naps double up to a minute and which is
    often not woken (TensorFlow 2.21): what took 25 s at the processor ended after 41.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def damage(path: pathlib.Path) -> str:
    """Which record of a shard is the first that cannot be read; "" if all can."""
    whole = 0
    try:
        for _ in untuned(tf.data.TFRecordDataset(str(path))):
            whole += 1
    except tf.errors.DataLossError:
        return f"{path}: record {whole} (from 0) is damaged or cut off: copy or prepare it again."
    return ""
