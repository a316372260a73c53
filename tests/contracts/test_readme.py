"""What the README says can be done, can be done: its commands parse, its files exist, its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from small_runs import README, ROOT

from mtquant_rllib.cli import build_parser

COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("mtquant ")]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command: str) -> None:
    assert build_parser().parse_args(shlex.split(command)[1:]).handler


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|experiments|docs)/[\w./]+\w", README))))
def test_a_file_of_the_readme_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_five_lines_of_python_run(five_lines: Path) -> None:
    assert (five_lines / "five.txt").read_text().strip().endswith("StepResult")
    assert (five_lines / "runs" / "mine" / "evaluation" / "test" / "equity.png").stat().st_size > 10_000
