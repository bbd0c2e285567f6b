"""A study whose runs take no time; :mod:`tests.medxfer.studies.fake_run` does them."""

import dataclasses
import json
import sys

from medxfer.config import Config
from medxfer.studies import plan as plans
from tests.medxfer.studies.fake_run import PRINT

GROUPS = {"net": ("conv1", "fc2")}


def plan(seeds=1, **changes):
    base = Config(app="cimt", model="net")
    arguments = {
        "groups": GROUPS, "scratch_rates": [0.001], "inits": ["msra"], "seeds": seeds,
        "counterpart_learns": False,
    }  # fmt: skip
    return plans.make(base, PRINT, 4, **(arguments | changes))


def command(behaviour=""):
    """Command lines of runs that behave so: ``METHOD=how`` words, see there."""

    def make(study, planned):
        return [
            sys.executable, "-m", "medxfer.studies.child", "tests.medxfer.studies.fake_run",
            str(study.run(planned.name).path), json.dumps(dataclasses.asdict(planned.config)),
            behaviour,
        ]  # fmt: skip

    return make
