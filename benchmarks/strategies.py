"""Do the strategies of Davila et al. (2024) gain over full fine-tuning? Studies of several sets.

    python -m medxfer.study --app=classify --data=SET1 --models=... --strategies=ft,lp_ft,...
    python benchmarks/strategies.py STUDY1 STUDY2 ...

Prints the table network by strategy of every finished study, with intervals over test subjects, and
over all of them the two claims of the paper's abstract: LP-FT improves on full fine-tuning in more
than half of the cases, and Auto-RGN gains much on some sets. A case is a set and a network; how
many cases have a gain above 0 is given with Wilson's interval, as if cases were independent, and
how many are told from full fine-tuning by the paired test beside it.
"""

import json
import pathlib
import statistics

from absl import app
from scipy import stats

SUBJECTS = {"lp_ft": "LP-FT", "auto_rgn": "Auto-RGN"}


def rows_of(study: pathlib.Path) -> tuple[dict, list[dict]]:
    """A study's facts and its table of strategies."""
    try:
        content = json.loads((study / "study.json").read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{study} is no finished study: {error}") from error
    return content, content["strategies"]


def number(row: dict, name: str, low: str, high: str, sign: str = "") -> str:
    """``.91 (.85 to .97)``."""
    return f"{row[name]:{sign}.3f} ({row[low]:{sign}.3f} to {row[high]:{sign}.3f})"


def print_study(study: pathlib.Path) -> list[dict]:
    """Markdown; returns the rows but those of full fine-tuning."""
    content, rows = rows_of(study)
    hours = sum(run["minutes"] or 0 for run in content["runs"]) / 60
    facts = f"{content['test_subjects']} test subjects, {len(content['runs'])} runs"
    print(f"\n**{study.name}**: {facts}, {hours:.1f} h in sum, {len(content['failed'])} failed.\n")
    head = (
        "network",
        "strategy",
        content["primary"],
        "rank",
        "gain over ft",
        "Holm p",
        "seeds ahead",
    )
    print("|", " | ".join(head), "|")
    print("|---" * len(head) + "|")
    for row in rows:
        cells = [
            row["network"],
            row["strategy"],
            number(row, "estimate", "estimate_low", "estimate_high"),
        ]
        cells.append(str(row["rank"]))
        if row["gain"] == "":
            cells += ["", "", ""]
        else:
            cells.append(number(row, "gain", "low", "high", "+"))
            cells += [f"{row['holm_bootstrap']:.3f}", f"{row['improved']} of {row['cases']}"]
        print("|", " | ".join(cells), "|")
    return [row | {"study": study.name} for row in rows if row["gain"] != ""]


def main(arguments: list[str]) -> None:
    """All studies, then what they say together."""
    rows = [row for name in arguments[1:] for row in print_study(pathlib.Path(name))]
    print("\n| strategy | cases with a gain (95 %) | better | worse | median gain | largest gain |")
    print("|---|---|---|---|---|---|")
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == strategy]
        ahead = sum(row["gain"] > 0 for row in own)
        found = stats.binomtest(ahead, len(own)).proportion_ci(method="wilson")
        best = max(own, key=lambda row: row["gain"])
        print(
            f"| {SUBJECTS.get(strategy, strategy)} | {ahead} of {len(own)} ({found.low:.2f} to "
            f"{found.high:.2f}) | {sum(r['verdict'] == 'better' for r in own)} | "
            f"{sum(r['verdict'] == 'worse' for r in own)} | "
            f"{statistics.median(r['gain'] for r in own):+.3f} | {best['gain']:+.3f} "
            f"({best['low']:+.3f} to {best['high']:+.3f}), {best['network']}, {best['study']} |"
        )


if __name__ == "__main__":
    app.run(main)
