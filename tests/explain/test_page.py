"""The page says what the arrays say, needs nothing but itself, and is the same twice."""

from __future__ import annotations

import base64
import copy
import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects
import plotly.offline
import pytest
from matplotlib import image
from page_runs import gather

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.explain.attention import attention_views, encoded, movement
from mtquant_rllib.evaluation.explain.collect import ExplanationData, Influence
from mtquant_rllib.evaluation.explain.importance import Faithfulness, attention_received
from mtquant_rllib.evaluation.explain.influence import shares, verdict, verdicts
from mtquant_rllib.evaluation.explain.performance import risk_return
from mtquant_rllib.evaluation.explain.write import build_page
from mtquant_rllib.evaluation.report.book_styles import book_styles, is_held
from mtquant_rllib.evaluation.report.building import EvaluationReport, build_report
from mtquant_rllib.evaluation.statistics.bootstrap import Interval
from mtquant_rllib.evaluation.web_page.page import Page
from mtquant_rllib.evaluation.web_page.panel import date_axis, dates, kept_points, short
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.training.inspection.opened_policies import OpenedRun

ALWAYS = {
    "wealth", "risk_return", "regime_timeline", "transition_matrix", "durations", "regime_performance",
    "regime_comparison", "weights", "weight_regimes", "importance", "importance_regimes",
}  # fmt: skip
WITH_ATTENTION = {"attention_heatmap", "attention_time", "classifier"}
PICTURES = {
    "regimes", "regime_timeline", "regime_performance", "weights", "weight_regimes", "risk_return", "importance",
    "equity",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(material: ExplanationData, opened: OpenedRun) -> EvaluationReport:
    return build_report(material.records, opened.settings)


@pytest.fixture(scope="module")
def page(material: ExplanationData, report: EvaluationReport, opened: OpenedRun) -> Page:
    return build_page(material, report, opened.settings)


@pytest.fixture(scope="module")
def figures(page: Page) -> dict[str, Any]:
    return {panel.id: panel.figure for section in page.sections for panel in section.panels}


@pytest.mark.slow
def test_the_page_has_every_panel_with_a_heading_a_lead_and_a_place(page: Page, figures: dict[str, Any]) -> None:
    assert set(figures) == ALWAYS | WITH_ATTENTION
    text = page.render()
    for name in ["dashboard", *figures]:
        assert text.count(f'id="{name}"') == 1
    for name in figures:
        assert f'data-panel="{name}"' in text
    assert all(panel.title and len(panel.lead) > 40 for section in page.sections for panel in section.panels)


@pytest.mark.slow
def test_plotly_knows_every_property_of_every_figure(figures: dict[str, Any]) -> None:
    for figure in figures.values():
        # A copy: Plotly takes apart what it is given.
        plotly.graph_objects.Figure(copy.deepcopy(figure))


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    text = page.render()
    assert text.count(plotly.offline.get_plotlyjs()) == 1
    ours = text.replace(plotly.offline.get_plotlyjs(), "")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}", ours.replace("// Draws", ""))
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=", ours)
    assert "default-src 'none'" in ours, "and a browser is told to fetch nothing"
    assert len(ours) < 3_000_000


def test_a_text_cannot_end_the_pages_data(page: Page) -> None:
    odd = Page("a</script><b>", "<i>", [("<u>", "</u>")], page.sections, "", page.choices, {"x": "</script>"}).render()
    assert odd.count("</script>") == 3 + plotly.offline.get_plotlyjs().count("</script>")
    assert "a&lt;/script&gt;&lt;b&gt;" in odd


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(page: Page, opened: OpenedRun) -> None:
    again = gather(opened, "meta_controller")
    assert build_page(again, build_report(again.records, opened.settings), opened.settings).render() == page.render()


@pytest.mark.parametrize("config", ["default.yaml", "allocator.yaml"])
def test_no_two_books_share_a_colour_and_a_book_keeps_its_own(config: str) -> None:
    settings = Settings.load(config)
    names = [rollout.subject_of(settings), "reference", *weight_rules(settings)]
    styles = book_styles(names)
    own = [styles[name].colour for name in names if not is_held(name)]
    assert len(set(own)) == len(own) > 8
    assert book_styles([names[0], "long_all", "flat"])["long_all"] == styles["long_all"]
    many = book_styles(["desk", *(f"own_{number}" for number in range(30))])
    assert len({(style.colour, style.symbol) for style in many.values()}) == 31


@pytest.mark.slow
def test_a_cursor_reads_the_day_and_on_shorter_bars_the_minute(figures: dict[str, Any]) -> None:
    axes = {name: figure["layout"]["xaxis"] for name, figure in figures.items() if "xaxis" in figure["layout"]}
    timed = {name: axis["hoverformat"] for name, axis in axes.items() if axis.get("type") == "date"}
    assert timed == dict.fromkeys(("wealth", "regime_timeline", "weights", "attention_time", "classifier"), "%Y-%m-%d")
    assert date_axis(6000.0)["hoverformat"] == "%Y-%m-%d %H:%M"


def test_a_legend_above_a_plot_leaves_room_for_the_tools_or_stands_below_them(figures: dict[str, Any]) -> None:
    """On a plot of 660 pixels, the narrowest there is: about 7 a letter, 40 a mark, 200 for the tools."""
    wide = []
    for name, figure in figures.items():
        legend = figure["layout"]["legend"]
        shown = [t for t in figure["data"] if t.get("showlegend", True) and "legend" not in t and "name" in t]
        if legend.get("orientation") == "h" and legend["x"] == 0:
            width = sum(7 * len(trace["name"]) + 40 for trace in shown) + 200
            assert width <= 660 or figure["layout"]["margin"]["t"] >= 60, name
            wide += [name] if width > 660 else []
    assert wide == ["attention_time"]


def test_a_star_in_a_note_is_a_column_of_the_table(page: Page, report: EvaluationReport) -> None:
    wealth = page.sections[0].panels[0]
    assert "Sharpe*" in wealth.table[0]
    column = wealth.table[0].index("Sharpe*")
    told = [float(row[column]) for row in wealth.table[1:] if row[column] != "–"]
    known = [book.without_excluded.values["sharpe_ann"] for book in report.books]
    assert told == pytest.approx([value for value in known if np.isfinite(value)], abs=0.005)


def test_wealth_ends_where_the_record_ends(material: ExplanationData, figures: dict[str, Any]) -> None:
    trace = next(t for t in figures["wealth"]["data"] if t["name"] == "desk" and "yaxis" not in t)
    final = np.median(measures.wealth(material.subject.returns)[:, -1])
    assert trace["y"][-1] == pytest.approx(final, rel=1e-4)
    assert trace["x"][-1] == str(material.timestamps[-1])[:10]


def test_the_transition_matrix_is_counted_pair_by_pair(material: ExplanationData, figures: dict[str, Any]) -> None:
    counts = np.zeros((4, 4), dtype=int)
    for history in material.regime.tolist():
        for before, after in itertools.pairwise(history):
            if before >= 0 and after >= 0:
                counts[before, after] += 1
    (trace,) = figures["transition_matrix"]["data"]
    for i in range(4):
        leaves = counts[i].sum() - counts[i, i]
        for j in range(4):
            if i != j and leaves:
                assert trace["z"][i][j] == pytest.approx(counts[i, j] / leaves, rel=1e-4)
                assert f"({counts[i, j]})" in trace["text"][i][j]


def test_durations_and_fields_of_the_timeline_cover_every_bar_once(
    material: ExplanationData, figures: dict[str, Any]
) -> None:
    segments = [bars for trace in figures["durations"]["data"] for bars in trace["y"]]
    assert sum(segments) == (material.regime >= 0).sum()
    x = dates(material.timestamps[: material.length], 252)
    for regime, trace in enumerate(figures["regime_timeline"]["data"][:4]):
        corners = [corner for corner in trace["x"] if corner is not None]
        covered = sum(x.index(corners[k + 2]) - x.index(corners[k]) for k in range(0, len(corners), 4))
        mine = int((material.regime[0, : material.length] == regime).sum())
        assert covered in (mine, mine - 1), "the last bar has no bar after it to reach to"


def test_bars_of_profit_by_regime_add_up(material: ExplanationData, figures: dict[str, Any]) -> None:
    profit = figures["regime_performance"]["data"][0]
    assert profit["x"][-1] == "all bars"
    known = [value for value in profit["y"] if value is not None]
    total = np.mean(material.subject.equity_ccy[:, -1] / material.subject.equity_start_ccy - 1)
    assert sum(known[:-1]) == pytest.approx(known[-1], abs=1e-5)
    assert known[-1] == pytest.approx(total, rel=1e-3)


def test_risk_and_return_are_the_reports(report: EvaluationReport) -> None:
    points = risk_return(report)
    values = report.subject.all_bars.values
    assert points["desk"][0] == values["volatility_ann"]
    assert points["desk"][1] / points["desk"][0] == pytest.approx(values["sharpe_ann"])
    assert points["flat"] == (0, 0)
    assert set(points) == {book.name for book in report.books if not book.all_bars.values["bankruptcies"]}


def test_importance_bars_order_the_groups_as_the_arrays_do(material: ExplanationData, figures: dict[str, Any]) -> None:
    bars = {trace["name"]: trace["y"] for trace in figures["importance"]["data"] if trace["type"] == "bar"}
    assert set(bars) == {"occlusion", "attention received", "attention rollout"}
    np.testing.assert_array_equal(np.argsort(bars["occlusion"]), np.argsort(material.influence.effect.mean(axis=0)))
    assert all(sum(values) == pytest.approx(1, abs=1e-3) for values in bars.values())


def faith(agreement: float, lower: float, p_value: float) -> Faithfulness:
    return Faithfulness(
        agreement=Interval(agreement, lower, 1, 0.1, 0.95),
        random=Interval(0, -0.1, 0.1, 0.05, 0.95),
        p_value=p_value,
        ranking="spearman",
        n_rows=9,
    )


LEAST = 0.6


def test_the_page_says_so_when_attention_is_not_faithful() -> None:
    assert "is faithful here" in verdict("received", faith(0.6, 0.5, 1 / 24), LEAST)
    slight = verdict("received", faith(0.14, 0.11, 1 / 24), LEAST)
    assert "is faithful in part only" in slight
    assert "less than a picture of importance promises" in slight
    for doubtful in (faith(0.2, -0.05, 1 / 24), faith(0.6, 0.5, 0.3), faith(-0.9, -1, 1)):
        assert not doubtful.beats_chance
        said = verdict("rollout", doubtful, LEAST)
        assert "is not faithful here" in said
        assert "not what its decisions rest on" in said


def test_attention_that_has_the_order_right_is_not_said_to_have_the_sizes_right() -> None:
    effect, claim = np.array([[0.01, 0.25, 0.19, 0.55]] * 3), np.array([[0.23, 0.26, 0.24, 0.27]] * 3)
    regime = np.zeros(3, dtype=np.int8)
    groups = ("portfolio", "correlation", "specialists", "macro")
    scores = {"received": faith(0.9, 0.8, 1 / 24)}
    influence = Influence(groups, "weights", effect, {"received": claim}, scores, regime, LEAST)
    (said,) = verdicts(influence)
    assert "is faithful here" in said
    assert said.endswith("in size it gives macro 27% of the whole, and occlusion 55%: no group's share is further off.")
    scores = {"received": faith(0.0, 0.0, 1.0)}
    still = Influence(groups, "weights", 0 * effect, {"received": claim}, scores, regime, LEAST)
    assert verdicts(still) == (verdict("received", scores["received"], LEAST),)


def test_the_verdicts_stand_on_the_page(material: ExplanationData, page: Page) -> None:
    text = page.render()
    said = verdicts(material.influence)
    assert len(said) == 2
    for sentence in said:
        assert html.escape(sentence) in text


def test_every_choice_of_layer_head_and_regime_is_the_mean_it_names(material: ExplanationData) -> None:
    readout, decisions = material.readout, material.decisions
    assert readout is not None
    views = attention_views(readout, decisions, 40)
    attention = readout.attention.astype(np.float64)
    np.testing.assert_allclose(views.matrix[0, 0, 0], attention.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(views.matrix[0, 2, 1], attention[:, 1, 0].mean(axis=0))
    for regime in Regime:
        mine = decisions.regime == regime
        if mine.any():
            np.testing.assert_allclose(views.matrix[1 + regime, 0, 2], attention[mine][:, :, 1].mean(axis=(0, 1)))
        else:
            assert np.isnan(views.matrix[1 + regime]).all()


def test_attention_over_time_averages_consecutive_decisions(material: ExplanationData) -> None:
    readout, decisions = material.readout, material.decisions
    assert readout is not None
    first = decisions.of_history(0)
    views = attention_views(readout, decisions, 7)
    assert views.over_time.shape[-1] == 7
    received = attention_received(readout.attention[first])
    stops = np.append(np.searchsorted(decisions.bar[first], views.part_bar), len(first))
    for part, (start, stop) in enumerate(itertools.pairwise(stops)):
        np.testing.assert_allclose(views.over_time[0, 0, :, part], received[start:stop].mean(axis=0), rtol=1e-5)


def test_attention_that_follows_the_regime_moves_when_it_changes(material: ExplanationData) -> None:
    readout, decisions = material.readout, material.decisions
    assert readout is not None
    one_group = np.zeros_like(readout.attention)
    one_group[np.arange(len(one_group)), ..., decisions.regime % 4] = 1
    stayed, changed, count = movement(type(readout)(one_group, readout.probabilities, readout.fallback), decisions)
    assert (stayed, changed) == (0, 1)
    assert count > 0


def test_packed_numbers_come_back() -> None:
    values = np.array([[0.0, 0.25, np.nan], [1.0, 0.123456, 0.5]])
    packed = encoded(values)
    codes = np.frombuffer(base64.b64decode(str(packed["data"])), dtype="<u2").reshape(2, 3)
    assert packed["shape"] == [2, 3]
    assert codes[0, 2] == 65535
    np.testing.assert_allclose(codes[1] / 65534, values[1], atol=1e-5)


def test_ten_years_are_drawn_in_as_many_points_as_asked_for_and_no_peak_is_lost() -> None:
    values = np.random.default_rng(0).normal(size=2520).cumsum()
    values[1234], values[777], values[5] = 99.0, -99.0, np.nan
    kept = kept_points(values, 500)
    assert len(kept) <= 502
    assert {0, 777, 1234, 2519} <= set(kept.tolist())
    assert kept_points(values[:400], 500).tolist() == list(range(400))
    assert short(np.array([[1.234567, np.inf]])) == [[1.2346, None]]


@pytest.mark.slow
def test_a_plain_network_has_no_attention_panels_and_the_page_says_so(
    plain: ExplanationData, opened: OpenedRun
) -> None:
    page = build_page(plain, build_report(plain.records, opened.settings), opened.settings)
    assert {panel.id for section in page.sections for panel in section.panels} == ALWAYS
    text = page.render()
    assert "XAUUSD has a plain network: there is no attention to show" in text
    assert "<select" not in text
    assert list(shares(plain.influence)) == ["occlusion"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nowhere"], "no such run folder"),
        (["attention", "--agent", "forex"], "no such agent; there are meta_controller, forex_specialist"),
        (["unfinished"], "no phase of this run is done yet"),
        (["young"], "after phase 1 there is no meta_controller yet; name another with --agent (forex_specialist"),
        (["young", "--phase", "3", "--agent", "EURUSD"], "phase 3 is not done"),
        (["alone", "--phase", "2"], "there is no phase 2 in this run; its phases are 1"),
        (["plain", "--out", __file__], "no folder to write the page into: File exists"),
    ],
)
def test_bad_input_gets_one_clear_error(
    runs: Path, arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(runs / arguments[0]), *arguments[1:]]) == 2
    said = capsys.readouterr()
    assert hint in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(("name", "hint"), [("young", "no meta_controller yet to ask"), ("nowhere", "no such run")])
def test_a_run_that_cannot_be_asked_for_its_speed_gets_one_clear_error(
    runs: Path,
    name: str,
    hint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "inference", "--run", name, "--repeats", "1"]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_page_pictures_and_figures(runs: Path, tmp_path: Path) -> None:
    assert main(["explain", str(runs / "young"), "--agent", "equity_specialist", "--out", str(tmp_path / "why")]) == 0
    written = {path.name for path in (tmp_path / "why").iterdir()}
    assert written == {"explain.html", "figures.json", *(f"{name}.png" for name in PICTURES)}
    assert "regime_share_bull" in json.loads((tmp_path / "why" / "figures.json").read_text())
    for name in PICTURES:
        pixels = image.imread(tmp_path / "why" / f"{name}.png")
        assert pixels[..., :3].std() > 0.01, f"{name} is not an empty picture"


@pytest.mark.slow
def test_the_command_says_and_writes_how_the_classifier_does_against_the_detector(
    runs: Path, opened: OpenedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(runs / "attention"), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "classifier.json").read_text())
    confusion = np.array(written["confusion"])
    assert f"{confusion.sum():,} decisions" in said
    assert f"always saying {written['majority']} would be right in {100 * written['majority_accuracy']:.1f}%" in said
    assert "balanced accuracy" in said
    assert said.count("faithful here") == 2
    # The labels are the detector's at the decisions: every fifth bar of both histories.
    regime, every = np.asarray(opened.data.features.regime), opened.settings.desk.decision.meta_every_bars
    labels = np.concatenate([regime[segment.start : segment.stop - 1 : every] for segment in opened.data.segments])
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(labels, minlength=4))
    assert written["accuracy"]["estimate"] == pytest.approx(np.trace(confusion) / confusion.sum())
