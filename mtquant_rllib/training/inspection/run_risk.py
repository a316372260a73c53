"""The risk report of a run: from one of its evaluations, with the limits of its own settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mtquant_rllib import strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.compare.compared_run import read_report
from mtquant_rllib.evaluation.report.output import REPORT
from mtquant_rllib.evaluation.risk_report.figures import RiskReport, build_report
from mtquant_rllib.evaluation.risk_report.history import read_history
from mtquant_rllib.evaluation.risk_report.page import build_page
from mtquant_rllib.training.inspection.evaluation_folder import FOLDER
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.ownership import within
from mtquant_rllib.training.records.run_names import existing_run

PAGE, FIGURES = "risk_report.html", "risk_report.json"


@dataclass(frozen=True)
class RunRisk:
    """The report, and the files in the evaluation's folder that it was written to."""

    report: RiskReport
    page: Path
    figures: Path


def report_risk(run: Path, *, evaluation: str = "test", book: str | None = None) -> RunRisk:
    """Write the risk report of an evaluation beside it.

    Parameters
    ----------
    evaluation
        Name of its folder.
    book
        By default the run's own.

    Raises
    ------
    RunError
        When the run has not been evaluated so, or the evaluation has no such book.
    """
    run = existing_run(run).resolve()
    manifest = Manifest.read(run)
    folder = within(run, run / FOLDER / evaluation)
    if not (folder / REPORT).is_file():
        raise RunError(f"{run}: it has no evaluation {evaluation!r}; make it with `mtquant evaluate {run}`")
    tree, settings = read_report(folder), manifest.load_settings()
    books = {one["name"]: one for one in tree["books"]}
    name = next(iter(books)) if book is None else book
    if name not in books:
        raise RunError(f"--book {name}: this evaluation has {', '.join(books)}")
    values = books[name]["all_bars"]["values"]
    trips = tuple(int(value) for key, value in values.items() if key.startswith("breaker_trips_"))
    history = read_history(folder, name)
    report = build_report(history, settings, trips)
    title = f"Risk of {run.name}" + ("" if book is None else f", {name}")
    page = build_page(report, history, settings, title, settings.evaluation.explain.line_points)
    figures = folder / FIGURES
    figures.write_text(strict_json.dumps(strict_json.json_values(asdict(report)), indent=1) + "\n")
    return RunRisk(report, page.write(folder / PAGE), figures)
