"""Raw images in, results out: for people who have a trained run and no annotation."""

import csv
import hashlib
import json
import math
import pathlib
import tempfile
from collections.abc import Sequence

from absl import logging

from data_prep import link_table as link_tables
from data_prep import progress
from data_prep.errors import UserError
from medxfer import experiment, outputs, pixels
from medxfer.apps._options import PredictOptions
from medxfer.config import Config
from medxfer.runs import RunFolder

NAMED = 5  # inputs in a warning


def predict(
    run: RunFolder,
    source: pathlib.Path,
    output: pathlib.Path,
    *,
    mm_per_pixel: float | Sequence[float | str] | None = None,
    roi: list[str] | None = None,
    every_s: float | None = None,
    keep_names: bool = False,
    link_table: pathlib.Path | None = None,
) -> list[dict]:
    """Apply a trained run to one raw study (image, video, volume) or to all of a folder.

    Writes, per study, what the app's ``predict`` gives, and for all ``predictions.json`` and
    ``predictions.csv`` (one line a study) into ``output``, which must not exist or be empty;
    nothing is left there if no image can be used. With ``keep_names`` there is the path of each
    study below ``source``; ``link_table`` is a CSV of original paths and names, for the owner.

    Raises
    ------
    UserError
        If the input is absent or holds no study, none can be used, the region is not four numbers,
        the pixel size or the time between frames is not above 0, ``output`` is not empty, or the
        link table would lie in it.
    """
    if not source.exists():
        raise UserError(f"--input={source} does not exist.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={output} is not empty: predictions go to a new folder.")
    if link_table is not None:
        link_tables.require_place(link_table, output)
    region = _region(roi)
    sizes = _sizes(mm_per_pixel)
    if every_s is not None and not 0 < every_s < math.inf:
        raise UserError(f"--every_s must be above 0. Received: {every_s}.")
    config = Config.load(run.path / "config.json")
    app = experiment.app_of(config)
    classes = run.card["data"].get("classes") or app.CLASSES
    settings = {**run.card["data"]["app_settings"], "classes": list(classes)}
    built = experiment.trained(run, len(classes))
    known = run.card["data"].get("pixels")
    watch = pixels.Watch(known) if known else None
    scorer = app.cnn(experiment.network(built, settings, config, watch))
    options = PredictOptions(sizes, region, every_s, run.assets)
    paths = app.raw_inputs(source)
    if not paths:
        raise UserError(f"--input={source} holds no {app.INPUT} that can be read.")

    results, used, left_out = [], [], []
    output = output.absolute()
    place = next(folder for folder in output.parents if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{output.name}-") as partial:
        for number, path in enumerate(
            progress.track(paths, "Predicting", len(paths), f"{app.INPUT}s")
        ):
            try:
                name = path.stem if keep_names else _pseudonym(path)
                name = f"{number:04d}-{name}" if len(paths) > 1 else name
                found = app.predict(path, scorer, settings, name, pathlib.Path(partial), options)
            except UserError as error:
                left_out.append((path, str(error)))
                if watch:
                    watch.outside()  # what was seen of it is forgotten
                continue
            shown = {"path": _below(path, source)} if keep_names else {}
            results.append({"name": name, **shown, **found})
            used.append(path)
            if watch:
                results[-1]["outside_training"] = "; ".join(watch.outside())
            logging.info("%s -> %s: %s", path.name, name, app.describe(found))
        for path, reason in left_out if results else left_out[1:]:
            logging.warning("%s left out: %s.", path.name, reason.rstrip("."))
        if not results:
            raise UserError(
                f"No {app.INPUT} could be used. {left_out[0][0].name}: {left_out[0][1]}"
            )
        _warn_of_outside(used, results, app.INPUT)
        words = ""
        if hasattr(app, "collect"):
            words = app.collect(used, results, settings, pathlib.Path(partial))
        text = json.dumps(
            {
                "app": config.app,
                "weights_sha256": run.card["trained_weights_sha256"],
                f"{app.INPUT}s": results,
                "left_out": len(left_out),
            },
            indent=2,
        )
        (pathlib.Path(partial) / "predictions.json").write_text(text + "\n")
        _write_table(pathlib.Path(partial) / "predictions.csv", results)
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            output.rmdir()
        pathlib.Path(partial).chmod(0o755)
        pathlib.Path(partial).rename(output)
        pathlib.Path(partial).mkdir()  # for the clean-up of the temporary folder
    if link_table is not None:
        rows = [(path, found["name"], "") for path, found in zip(used, results, strict=True)]
        rows += [(path, "", reason) for path, reason in left_out]
        rows = sorted((str(path.absolute()), *more) for path, *more in rows)
        link_tables.write(link_table, ["original", "name", "left_out"], rows)
    print(f"{len(results)} {app.INPUT}s predicted, {len(left_out)} left out. Results: {output}")
    if words:
        print(words)
    return results


def _below(path: pathlib.Path, source: pathlib.Path) -> str:
    """Path of a study below the input folder; the name of the input itself."""
    for folder in (source, source.resolve()):
        if path != folder and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name


def _warn_of_outside(paths: list[pathlib.Path], results: list[dict], unit: str) -> None:
    """Name what does not look like the images that the run learnt from."""
    if "outside_training" not in results[0]:
        logging.warning(
            "This run is of an earlier version and does not say what its training images look "
            "like: whether these are like them is not known."
        )
        return
    found = [
        f"{path.name} ({result['outside_training']})"
        for path, result in zip(paths, results, strict=True)
        if result["outside_training"]
    ]
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        logging.warning(
            "%d of %d %ss do not look like the images that this run learnt from, and nothing is "
            "known of how good it is on such: %s%s.",
            len(found), len(results), unit, ", ".join(found[:NAMED]), more,
        )  # fmt: skip


def _write_table(path: pathlib.Path, results: list[dict]) -> None:
    """One line a study: its numbers and texts, and a column for the probability of each class."""
    rows = []
    for found in results:
        row = {key: value for key, value in found.items() if isinstance(value, str | int | float)}
        if shown := found.get("probabilities"):
            row["predicted"] = "; ".join(_texts(found["predicted"]))
            row |= zip(outputs.columns("p", list(shown)), shown.values(), strict=True)
        row |= {"notes": "; ".join(found["notes"])} if "notes" in found else {}
        rows.append(row)
    # Names that are not UTF-8 are escaped.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        table.writerows(rows)


def _texts(found: str | list[str]) -> list[str]:
    return [found] if isinstance(found, str) else found


def _pseudonym(path: pathlib.Path) -> str:
    """Name made from the content: from a file's name anybody who guesses it could compute it."""
    files = [part for part in path.iterdir() if part.is_file()] if path.is_dir() else [path]
    digests = []
    try:
        for part in files:
            with part.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:12]
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})") from error


def _sizes(given: float | Sequence[float | str] | None) -> tuple[float, ...] | None:
    """Height and, perhaps, width of a pixel in mm."""
    if given is None:
        return None
    parts = [given] if isinstance(given, int | float) else list(given)
    try:
        sizes = tuple(float(part) for part in parts)
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2) or not all(0 < size < math.inf for size in sizes):
        raise UserError(
            "--mm_per_pixel must be above 0: the height of a pixel, or HEIGHT,WIDTH. Received: "
            f"{','.join(map(str, parts))}."
        )
    return sizes


def _region(roi: list[str] | None) -> tuple[int, int, int, int] | None:
    if roi is None:
        return None
    try:
        x, y, width, height = (int(part) for part in roi)
    except ValueError:
        raise UserError(
            f"--roi must be x,y,width,height in whole pixels. Received: {','.join(roi)}."
        ) from None
    if min(x, y) < 0 or width < 8 or height < 8:
        raise UserError(f"--roi must lie in the image and be 8 pixels or more. Received: {roi}.")
    return x, y, width, height
