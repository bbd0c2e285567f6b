"""Pre-trained weights: where they come from, the files they come in, and how they get in.

Every public module is a file format with ``SUFFIXES`` and ``read(path)``.
"""

import dataclasses
import functools
import pathlib

import keras
from absl import logging

from medxfer import plugins
from medxfer.models._groups import layer_groups
from medxfer.weights import _assign, _fetch, _formats, _inputs


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """Which weights a network began with.

    Parameters
    ----------
    source
        What they are, for run card and report: of a file its hash, as its name may be a patient's.
    sha256
        Of the file, in hexadecimal; empty for a random start.
    loaded, new
        Layer groups with weights from the file, and those that begin at random.
    """

    source: str
    sha256: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]


def load(
    model: keras.Model,
    model_name: str,
    source: str,
    cache_dir: pathlib.Path | None = None,
    head: bool = False,
    inputs: str = "auto",
) -> WeightReport:
    """Give a network its first weights.

    Parameters
    ----------
    model
        Network built by ``medxfer.models.MODEL_NAME``; its random weights stay where there are no
        others.
    model_name
        Name of that module.
    source
        ``imagenet``, ``none``, or the path of a weight file.
    cache_dir
        Where downloads are kept instead of ``$MEDXFER_CACHE``, ``$XDG_CACHE_HOME/medxfer`` or
        ``~/.cache/medxfer``.
    head
        True if the file comes from the same task, so that the last layer group is loaded as well.
    inputs
        What images a file was made for, one of ``medxfer.config.WEIGHTS_INPUTS``.

    Raises
    ------
    UserError
        If the weights are not to be had or are those of another network.
    """
    network = plugins.load("medxfer.models", model_name)
    groups = layer_groups(model, network.LAYER_GROUPS)
    if source == "none":
        logging.info("Weights: none, every layer begins at random.")
        return WeightReport("none (random start)", "", (), tuple(groups))
    if source == "imagenet":
        cache = cache_dir or _fetch.cache_folder()
        contents, about, sha256 = _fetch.imagenet(model_name, cache)
        shown = about
    else:
        path = pathlib.Path(source).expanduser()
        contents, about, sha256 = _formats.read(path), path.name, _formats.sha256(path)
        contents = _inputs.adapt(contents, network.preprocess, model_name, about, inputs)
        shown = f"a weights file (sha256 {sha256[:16]})"
    foreign = getattr(network, "FOREIGN_LAYERS", None)
    torch = getattr(network, "TORCH_LAYERS", ())
    loaded, new = _assign.assign(model, groups, contents, about, head, foreign, torch)
    _say(about, sha256, tuple(loaded), tuple(new[:-1]))
    return WeightReport(shown, sha256, loaded, new)


@functools.cache
def _say(about: str, sha256: str, loaded: tuple[str, ...], lacking: tuple[str, ...]) -> None:
    """What was loaded, once: a search over depths begins many times from the same weights."""
    logging.info("Weights: %s, sha256 %s, loaded into %s.", about, sha256[:16], ", ".join(loaded))
    if lacking:
        logging.warning(
            "No weights for %s in %s: they begin at random and learn at the rate of new layers.",
            ", ".join(lacking),
            about,
        )
