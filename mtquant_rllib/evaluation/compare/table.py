"""The comparison as one table: on the screen, and as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from mtquant_rllib import strict_json
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.compare.comparison import Comparison, Row
from mtquant_rllib.evaluation.report.bar_tables import write_parquet
from mtquant_rllib.evaluation.report.terminal_tables import print_cells

FORMATS = (".csv", ".json", ".parquet")
_FIGURES = (
    "sharpe_ann", "sharpe_lower", "sharpe_upper", "annual_return", "volatility_ann", "max_drawdown_frac",
    "sortino_ann", "turnover_ann", "cost_frac_ann", "gross_sharpe_ann", "price_pnl_ccy", "cost_ccy", "financing_ccy",
    "net_pnl_ccy", "exposure_gross", "exposure_net", "risk_edits",
)  # fmt: skip


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat row a run: figures, difference from the first run, verdict, and the settings that differ."""
    return [
        {
            "run": row.run.name,
            **{name: row.run.values.get(name, np.nan) for name in _FIGURES},
            "sharpe_error": row.run.sharpe_error,
            "sharpe_less_first": row.difference,
            "sharpe_less_first_lower": row.lower,
            "sharpe_less_first_upper": row.upper,
            "p_value": row.p_value,
            "verdict": row.run.finding,
            **{f"settings.{path}": value for path, value in row.differs.items()},
        }
        for row in comparison.rows
    ]


def check_table_name(path: Path) -> str:
    """The ending of a table's name. Raises ConfigError when no table is written with it."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--table {path}: expected a name that ends with {', '.join(FORMATS)}")
    return path.suffix.lower()


def write_table(comparison: Comparison, path: Path) -> Path:
    """By the ending of the file's name.

    Raises
    ------
    ConfigError
        When it has another ending.
    """
    kind = check_table_name(path)
    rows = rows_of(comparison)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".parquet":
        columns = {name: [_plain(row[name]) for row in rows] for name in rows[0]}
        return write_parquet(pa.table({name: _array(values) for name, values in columns.items()}), path)
    part = path.with_name(path.name + ".part")
    if kind == ".json":
        part.write_text(strict_json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    else:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    os.replace(part, path)
    return path


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Figures, differences from the first run, seeds of one configuration together where there are any, and the
    settings that differ."""
    first = comparison.runs[0]
    span = f"{first.context['n_bars']:,} bars, {first.context['first_date']} to {first.context['last_date']}"
    title = f"{len(comparison.rows)} runs on {span}, net of costs"
    print_cells(figure_cells(comparison), console, title=title)
    print_cells(verdict_cells(comparison), console, title="verdicts, and differences of Sharpe ratios", words=(0, 1))
    if len(comparison.configurations) < len(comparison.rows):
        print_cells(configuration_cells(comparison), console, title="seeds of one configuration together")
    if comparison.different:
        cells = _setting_cells(comparison)
        print_cells(cells, console, title="settings that differ", words=range(len(cells[0])))
    for note in comparison.notes:
        console.print(f"- {note}", highlight=False)


def figure_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Header and a row a run: what it earned, risked and paid."""
    head = ("run", "Sharpe", "return", "vol", "max DD", "Sortino", "turn/y", "cost/y", "gross")
    return [head, *(_figure_row(row) for row in comparison.rows)]


def _figure_row(row: Row) -> tuple[str, ...]:
    values = row.run.values
    return (
        row.run.name,
        f"{number(values['sharpe_ann'])} ±{number(row.run.sharpe_error)}",
        _percent(values["annual_return"]),
        _percent(values["volatility_ann"]),
        _percent(values["max_drawdown_frac"]),
        number(values["sortino_ann"]),
        number(values["turnover_ann"], 1),
        _percent(values["cost_frac_ann"]),
        number(values["exposure_gross"]),
    )


def verdict_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Header and a row a run: its verdict, and how far its Sharpe ratio is from the first run's."""
    head = ("run", "verdict", f"less {comparison.runs[0].name}", "p")
    return [head, *((row.run.name, row.run.finding, _gap(row), _p(row.p_value)) for row in comparison.rows)]


def configuration_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    head = ("configuration", "seeds", "IQM", f"{comparison.confidence:.0%}", "smallest", "largest")
    rows = (
        (
            one.name,
            str(len(one.rows)),
            number(one.iqm.estimate),
            "" if np.isnan(one.iqm.lower) else f"{number(one.iqm.lower)} to {number(one.iqm.upper)}",
            number(one.smallest),
            number(one.largest),
        )
        for one in comparison.configurations
    )
    return [head, *rows]


def _setting_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    rows = ((row.run.name, *(_cell(value) for value in row.differs.values())) for row in comparison.rows)
    return [("run", *comparison.different), *rows]


def _p(value: float) -> str:
    return "" if np.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _gap(row: Row) -> str:
    """The difference from the first run with its interval; empty for the first."""
    if np.isnan(row.difference):
        return ""
    if np.isnan(row.lower):
        return f"{row.difference:+.2f}"
    return f"{row.difference:+.2f} [{row.lower:+.2f}, {row.upper:+.2f}]"


def number(value: float, digits: int = 2) -> str:
    return f"{value:z.{digits}f}" if np.isfinite(value) else "–"


def _percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "–"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}" if np.isfinite(value) else ""
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) or value is None else strict_json.dumps(value)


def _array(values: list[Any]) -> pa.Array:
    """Of one type: a column of mixed settings becomes text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
