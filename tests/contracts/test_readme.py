"""What the README says can be done, can be done: its commands parse, its files exist, its Python runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mtquant_rllib.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("mtquant ")]
SNIPPET = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]

TINY = """
extends: laptop.yaml
embedded: {train: {paths: 2, years: 3}, validation: {paths: 1, years: 3}, test: {paths: 1, years: 3}}
desk: {episode: {bars: 20}}
recipe: {environments: 4, validations: 2}
"""


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 6


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
def test_the_five_lines_of_python_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    small = SNIPPET.replace("laptop.yaml", "tiny.yaml")
    code = f"if __name__ == '__main__':\n{''.join('    ' + line + chr(10) for line in small.splitlines())}"
    (tmp_path / "five.py").write_text(code + "    print(type(system.step(system.desk())).__name__)\n")
    done = subprocess.run(
        [sys.executable, "five.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("StepResult")
    assert (tmp_path / "runs" / "mine" / "evaluation" / "test" / "equity.png").stat().st_size > 10_000
