"""What a study ends with: tables, figures, TensorBoard, the report, a few sentences."""

from medxfer import experiment
from medxfer import report as run_report
from medxfer.dataset_folder import DatasetFolder
from medxfer.evaluation import figures as draw
from medxfer.runs import RunFolder
from medxfer.studies import answer, execute, figures, gather, hparams, report, tables
from medxfer.studies.plan import Plan, StudyFolder


def conclude(study: StudyFolder, plan: Plan, folder: DatasetFolder) -> None:
    """Compare what is finished, write all of it and print the answer.

    Raises
    ------
    UserError
        If no run is finished, or one cannot be used.
    """
    app = experiment.app_of(plan.runs[0].config)
    failed = execute.failures(study, plan.runs)
    caution = app.caution(folder) if hasattr(app, "caution") else ""
    found = gather.gather(study, plan, app, folder.truth["test"], failed, caution=caution)
    tables.write(study, plan, found)
    examples = folder.count("train")
    batches = {
        run.name: examples // min(run.config.batch_size, examples)
        for run in plan.runs
        if run.config.fraction == 1
    }
    place = study.path / "figures"
    place.mkdir(exist_ok=True)
    for old in place.glob("*.p[nd][gf]"):  # an earlier plan may have had others
        old.unlink()
    drawn = []
    for name, (figure, caption) in figures.figures(app, found, batches).items():
        draw.save(figure, place / name)
        drawn.append(run_report.Drawing(name, caption, place / f"{name}.png"))
    drawn += figures.of_runs(app, found, study)
    data = {
        "examples": {split: folder.count(split) for split in folder.splits},
        "subjects": {split: len(folder.subjects(split)) for split in folder.splits},
        "fingerprint": folder.fingerprint,
        "settings": folder.settings,
        "synthetic": not plan.runs[0].config.data,
    }
    page = report.html(plan, found, app.UNIT, data, drawn)
    RunFolder(study.path).write_text("report.html", page)
    run_report.log_figures(RunFolder(study.path), drawn)
    hparams.write(study, found)
    print("")
    for text in answer.sentences(found):
        print(f"  {text}")
    for text in found.cautions:
        print(f"  Caution: {text}.")
    for name, reason in failed.items():
        print(f"  Failed: {name}: {reason}")
    print(f"\n  report   {study.path / 'report.html'}")
    print(f"  tables   {study.path / 'tables'}, {study.path / 'study.json'}")
    print(f"  figures  {place}")
