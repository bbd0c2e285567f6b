"""What a run said, without the names of places: reasons of failures go to the report."""

import os
import pathlib
import re

from medxfer.config import NAMED_WEIGHTS, Config


def masked(text: str, study: pathlib.Path, config: Config) -> str:
    """A text without the places of study, data and weights, often called after people.

    Each in every form in which a message may say it; as a whole path or the beginning of one.
    """
    given = [(str(study), "the study's folder"), (config.data, "the folder of --data")]
    if config.weights not in NAMED_WEIGHTS:
        file = "the file of --weights"
        given += [(config.weights, file), (pathlib.Path(config.weights).name, file)]
    given.append(("~", "the home folder"))
    forms: dict[str, str] = {}
    for place, words in given:
        path = os.path.expanduser(place)
        absolute = str(pathlib.Path(path).absolute())
        for form in (place, path, absolute, os.path.normpath(absolute), os.path.realpath(path)):
            if place:
                forms.setdefault(form.rstrip("/"), words)
                forms.setdefault(str(pathlib.Path(form)), words)
    named = [form for form in forms if re.search(r"\w", form)]  # not "." or "/", which all have
    if not named:
        return text
    longest = "|".join(map(re.escape, sorted(named, key=len, reverse=True)))
    # Between what no name goes on with: "data" is neither in "database" nor in "data.py".
    whole = rf"(?<![\w.-])({longest})(?![\w-]|\.\w)"
    return re.sub(whole, lambda found: forms[found[0]], text)
