"""Score a trained run again, on its own records or on others."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping

from absl import logging

from data_prep import link_table
from data_prep.errors import UserError
from medxfer import data, experiment
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
from medxfer.runs import RunFolder


def evaluate(
    run: RunFolder,
    data_folder: str = "",
    exclude_seen: bool = False,
    links: pathlib.Path | None = None,
) -> tuple[RunFolder, dict]:
    """Score a trained run again; on other records with ``data_folder``.

    Results on other records go to ``evaluations/`` in the run, whose own numbers stay.

    Parameters
    ----------
    run : RunFolder
    data_folder : str
    exclude_seen : bool
        Leave out the test subjects of other records from whom the run has learnt.
    links : path, optional
        Link table of the other records, by which the originals of such subjects are shown on the
        terminal, and nowhere else.

    Returns
    -------
    run, card : RunFolder, dict
        Where the results are, and its run card.

    Raises
    ------
    UserError
        If the run is not finished, or the records cannot show how good it is: images of another
        size, other classes, or test subjects from whom it has learnt.
    """
    config = Config.load(run.path / "config.json")
    card = run.card
    config = dataclasses.replace(config, data=data_folder or config.data)
    folder = experiment.open_data(config)
    folder.require("test")
    learnt = {**card["data"], "synthetic": not config.data}
    shown = experiment.without_paths(config) | {"batch_size": card["config"]["batch_size"]}
    card = {**card, "config": shown, "data": learnt}
    others = folder.fingerprint != learnt["fingerprint"]
    left_out = 0
    if others:
        _require_comparable(folder, learnt, exclude_seen)
        seen = set(folder.subjects("test")).intersection(learnt["seen_subjects"])
        if seen and links is not None:
            _show(links, seen)
        if seen and not exclude_seen:
            raise UserError(
                f"{len(seen)} test subjects of {folder.path} were among those this run learnt "
                f"from ({', '.join(sorted(seen)[:3])}): its errors on them say nothing. "
                "--exclude_seen leaves them out; --link_table=FILE, which data_prep wrote of these "
                "data, shows here which originals they are."
            )
        if left_out := len(seen):
            folder = _without(folder, seen)
    built = experiment.trained(run, len(folder.classes))
    if others:
        run = RunFolder(run.path / "evaluations" / folder.fingerprint[:12])
        run.path.mkdir(parents=True, exist_ok=True)
        config.save(run.path / "config.json")
        card = {
            **{key: value for key, value in card.items() if key != "export"},
            "data": {
                **learnt,
                **experiment.described(folder),
                "learnt_from": learnt["fingerprint"],
                "excluded_subjects": left_out,
            },
        }
    if left_out:
        caution = (
            f"{left_out} of {left_out + len(folder.subjects('test'))} test subjects of these data "
            "were left out (--exclude_seen), for the run has learnt from them"
        )
        logging.warning("%s%s.", caution[0].upper(), caution[1:])
        card["cautions"] = [*card.get("cautions", ()), caution]
    return run, experiment.finish(run, card, built, folder, export_model=False)


def _show(links: pathlib.Path, seen: Collection[str]) -> None:
    """Print the original names of subjects: they are for whoever has the link table."""
    found = link_table.originals(links, seen)
    for name, subject in found:
        print(f"  learnt from  {name} (subject {subject})")
    if missing := set(seen).difference(subject for _, subject in found):
        print(f"  learnt from  {len(missing)} subjects that {links} does not name")


def _without(folder: DatasetFolder, seen: Collection[str]) -> DatasetFolder:
    """The folder without these test subjects."""
    _, subjects = data.labelled(folder, "test")
    folder = folder.without("test", seen, sum(subject not in seen for subject in subjects))
    if not folder.has("test"):
        raise UserError(
            f"This run has learnt from all test subjects of {folder.path}: with --exclude_seen "
            "none is left. Give other data."
        )
    return folder


def _require_comparable(folder: DatasetFolder, learnt: Mapping, exclude_seen: bool) -> None:
    """Raise UserError if records cannot show how good a run is that learnt from others."""
    (name, side), own = (
        experiment.side_of(learnt["app_settings"]),
        experiment.side_of(folder.settings)[1],
    )
    if own != side:
        raise UserError(
            f"{folder.path} holds images of {own} pixels, but this run learnt from images of "
            f"{side}: prepare the data with --{name}={side}."
        )
    names = learnt.get("classes", list(folder.classes))
    if list(folder.classes) != names:
        raise UserError(
            f"{folder.path} has the classes {', '.join(folder.classes)}, but this run learnt "
            f"{', '.join(names)}: prepare the data with --classes={','.join(names)}."
        )
    if folder.multilabel != learnt["app_settings"].get("multilabel", False):
        raise UserError(
            f"Either {folder.path} or the data that this run learnt from may have several classes "
            "an image, but not both."
        )
    if folder.key_id != learnt.get("key_id"):
        if exclude_seen:
            raise UserError(
                f"The pseudonyms of {folder.path} have another key than those of the data this run "
                "learnt from, so --exclude_seen cannot tell who is in both: prepare both with one "
                "--pseudonym_key."
            )
        logging.warning(
            "The pseudonyms of %s have another key than those of the data this run learnt "
            "from: whether a person is in both cannot be seen. Make sure that none is, or "
            "prepare both with one --pseudonym_key.",
            folder.path,
        )
