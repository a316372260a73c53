"""The command line: every command explains itself, every mistake gets one line and exit code 2."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import EIGHT, FIVE_DAYS, bars_file

from mtquant_rllib.cli import build_parser, main


def leaves(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """(words, parser) of every command that does something."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield list(words), parser
    for action in below:
        for word, one in action.choices.items():
            yield from leaves(one, *words, word)


COMMANDS = dict((" ".join(words), parser) for words, parser in leaves(build_parser()))
TRAINING = {
    "train": ["--set", "recipe.environments=4"],
    "sweep": ["--space", "recipe.learning_rate=1e-4,1e-3"],
    "ablate": ["shared_modules"],
    "walk-forward": ["--folds", "2"],
}
"""The commands that train from the beginning, and what each needs besides bars."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example_and_takes_settings(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    said = capsys.readouterr().out
    assert exit_.value.code == 0
    assert f"example:\n  mtquant {command}" in said
    assert "--config FILE" in said
    assert "--set KEY=VALUE" in said


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["tain"], "did you mean train?"),
        (["data", "imprt"], "did you mean import?"),
        (["train", "--budgt-scale", "1"], "did you mean --budget-scale?"),
        (["train", "--set", "recipe.learnin_rate=1"], "did you mean recipe.learning_rate?"),
        (["train", "--set", "portfolio_risk.max_portfolio_var=2"], "did you mean 0.02?"),
        (["train", "--set", "seed"], "expected key=value"),
        (["train", "--budget-scale", "0"], "expected a factor above 0"),
        (["train", "--market", "no-such.parquet"], "no such file"),
        (["train", "--config", "no-such.yaml"], "no config file"),
        (["resume", "no-such-run"], "no such run folder"),
        (["evaluate", "no-such-run", "--episodes", "0"], "expected at least 1"),
        (["resume", "run", "--config", "document.yaml"], "its own settings"),
        (["runs", "list", "no-such-folder"], "no such folder of runs"),
        (["runs", "show", "no-such-run"], "no such run folder"),
        (["runs", "shwo", "run"], "did you mean show?"),
        (["runs", "verify", "run", "--config", "document.yaml"], "its own settings"),
        (["runs", "export-policy", "no-such-run", "--out", "policies/"], "no such run folder"),
        (["runs", "prune", "no-such-run", "--keep", "-1"], "expected 0 or more"),
        (["bench", "core", "--environments", "0"], "expected at least 1"),
        (["bench", "decide", "--batch", "0"], "expected at least 1"),
        (["bench", "engine", "--market", "no-such.parquet"], "no such file"),
        (["bench", "memory", "--minutes", "0"], "expected more than 0"),
    ],
)
def test_a_mistake_gets_one_clear_message_and_exit_code_2(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert hint in said.err
    assert "Traceback" not in said.err
    assert not said.out


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars_file(tmp_path_factory.mktemp("bars"), dict.fromkeys(EIGHT, FIVE_DAYS), years=9)


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run", ""], "the run's name is empty"),
        (["--run", ".."], "a run is not named through .."),
        (["--run", "~/x"], "~ is not read as a home folder"),
        (["--run", "a\nb"], "contains"),
        (["--budget-scale", "-1"], "expected a factor above 0"),
        (["--budget-scale", "nan"], "expected a factor above 0"),
        (["--macro", "no-such.parquet"], "no-such.parquet: no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value),
)
def test_every_command_that_trains_refuses_the_same_things(
    command: str,
    arguments: list[str],
    said: str,
    bars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.chdir(tmp_path)
    assert main([command, "--market", str(bars), *TRAINING[command], *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "nothing was written"


@pytest.mark.parametrize("command", TRAINING)
def test_every_command_that_trains_takes_bars_a_budget_a_folder_and_a_cluster(command: str) -> None:
    options = {word for action in COMMANDS[command]._actions for word in action.option_strings}
    assert {"--market", "--macro", "--budget-scale", "--run", "--address"} <= options


@pytest.mark.slow
def test_help_answers_without_loading_torch_or_ray() -> None:
    check = (
        "import sys; from mtquant_rllib.cli import build_parser; build_parser().format_help();"
        "print({'torch', 'ray', 'numpy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_synthetic_history_can_be_written_read_back_and_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "synth", "--years", "2", "--seed", "3", "--out", str(tmp_path)]) == 0
    bars, macro = tmp_path / "path_000.parquet", tmp_path / "path_000_macro.parquet"
    report = tmp_path / "report.json"
    assert main(["data", "import", str(bars), "--out", str(tmp_path / "again.parquet"), "--json", str(report)]) == 0
    assert main(["data", "describe", str(tmp_path / "again.parquet"), "--macro", str(macro)]) == 0
    said = capsys.readouterr().out
    assert "daily rows" in said
    assert report.is_file()
