"""Score a trained run again, on its own records or on others."""

import dataclasses
from collections.abc import Mapping

from absl import logging

from data_prep.errors import UserError
from medxfer import experiment
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
from medxfer.runs import RunFolder


def evaluate(run: RunFolder, data_folder: str = "") -> tuple[RunFolder, dict]:
    """Score a trained run again; on other records with ``data_folder``.

    Results on other records go to ``evaluations/`` in the run, whose own numbers stay.

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
    if others:
        _require_comparable(folder, learnt)
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
            },
        }
    return run, experiment.finish(run, card, built, folder, export_model=False)


def _require_comparable(folder: DatasetFolder, learnt: Mapping) -> None:
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
        logging.warning(
            "The pseudonyms of %s have another key than those of the data this run learnt "
            "from: whether a person is in both cannot be seen. Make sure that none is, or "
            "prepare both with one --pseudonym_key.",
            folder.path,
        )
    if seen := set(folder.subjects("test")).intersection(learnt["seen_subjects"]):
        raise UserError(
            f"{len(seen)} test subjects of {folder.path} were among those this run learnt "
            f"from ({', '.join(sorted(seen)[:3])}): its errors on them say nothing."
        )
