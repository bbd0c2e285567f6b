"""Finished runs of every kind of app, made of random scores in no time."""

import dataclasses

import numpy as np

from medxfer import plugins, tuning
from medxfer.config import Config
from medxfer.studies import plan as plans

GROUPS = {"alexnet": ("conv1", "conv2", "fc3")}
PRINT = "a" * 64
#: Method -> how good it is.
QUALITY = {"fc3": 0.5, "conv2": 1.4, "conv1": 1.5, "scratch": 1.0, "handcrafted": 0.2}


def plan(app, **changes):
    base = Config(app=app, model="alexnet", data="records", epochs=4)
    arguments = {
        "groups": GROUPS, "inits": ["msra", "xavier"], "shares": ["1", "0.5", "one"], "seeds": 2,
        "counterpart_learns": plans.counterpart_learns(app), "scratch_rates": [base.base_rate],
    }  # fmt: skip
    return plans.make(base, PRINT, 8, **(arguments | changes))


def truth(subjects=12):
    """Case -> facts, one case a subject."""
    return {
        f"case{i:02d}": {"subject": f"s{i:02d}", "images": 20, "lesions": [{}] * (2 + i % 2)}
        for i in range(subjects)
    }


def quality(planned):
    return QUALITY[planned.config.tune] - 0.4 * (planned.subjects < 8) * (
        planned.config.tune == "scratch"
    )


def rows(app, planned, cases):
    """Rows as the app writes them; what is hard about a unit is hard for every method."""
    hard = np.random.default_rng(5)
    own = np.random.default_rng([len(planned.name), planned.config.seed, planned.subjects])
    found = []
    for case, facts in cases.items():
        for place in range(12):
            common, noise = hard.standard_normal(), 0.3 * own.standard_normal()
            row = {"unit": f"{case}-{place:02d}", "case": case, "subject": facts["subject"]}
            label = int(place % 3 == 0)
            score = quality(planned) * label + common + noise
            if app == "cimt":
                scale = np.exp(0.2 * common + 0.1 * noise - quality(planned))
                found.append(
                    row
                    | {
                        "mm_per_pixel": 0.06,
                        "lumen_intima_error_um": 60 * scale,
                        "media_adventitia_error_um": 80 * scale,
                        "thickness_mm": 0.7 + 0.05 * noise,
                        "true_thickness_mm": 0.7,
                    }
                )
            elif app == "classify":
                probability = 1 / (1 + np.exp(-score))
                guess = {"p_no": 1 - probability, "p_yes": probability}
                found.append(row | {"label": ("no", "yes")[label], "predicted": "no", **guess})
            elif app == "frame":
                found.append(row | {"frame": place, "label": label, "score": score})
            else:
                lesion = place // 3 % len(facts["lesions"]) if label else -1
                places = {"frame": place, "x": 1.0, "y": 2.0}
                found.append(row | {"lesion": lesion, "score": score, **places})
    return found


def stages(planned):
    """What such a run trains; depths as if the head alone were tuned."""
    tune, groups = planned.config.tune, ("body", "head")
    known = tune if tune in ("scratch", *plugins.names(tuning.STRATEGIES)) else "head"
    return tuning.stages_for(known, groups, planned.config, groups[-1:])


def finish(study, plan, planned, cases):
    """Write the folder of a finished run."""
    run = study.run(planned.name)
    run.path.mkdir(parents=True)
    tune = planned.config.tune
    table = [{"method": tune, **row} for row in rows(plan.app, planned, cases)]
    if not planned.is_counterpart:  # beside a network stand the classic methods, all wrong here
        table += [{**row, "method": "handcrafted", "subject": "nobody"} for row in table]
    run.write_table("predictions.csv", table)
    card = {
        "data": {"fingerprint": plan.fingerprint, "validation_subjects_used": 1},
        "seconds": {"evaluation": 3.0},
        "history": [],
    }
    if not planned.is_counterpart:
        score = 0.7 + 0.1 * quality(planned)
        card |= {
            "stages": [dataclasses.asdict(stage) for stage in stages(planned)],
            "seconds": {"training": 60.0 * planned.subjects, "evaluation": 3.0},
            "history": [
                {
                    "stage": tune,
                    "score": score - 0.02 * (3 - e),
                    "loss": 1.0,
                    "validation_loss": 1.0,
                }
                for e in range(4)
            ],
            "best_epoch": 3,
            "best_validation_auc": score,
            "weights": {"source": "weights <of> somebody"},
            "versions": {"python": "3"},
        }
    planned.config.save(run.path / "config.json")
    run.write_json("run_card.json", card)


def study(path, app, cases, leave=(), **changes):
    """A study folder and its plan; all runs are finished but those of the methods in ``leave``."""
    folder, made = plans.StudyFolder(path), plan(app, **changes)
    folder.write_plan(made, shared=False)
    for planned in made.runs:
        if planned.method not in leave:
            finish(folder, made, planned, cases)
    return folder, made
