"""The Python of docs/decisions.md runs, as it stands there, on an exported folder and a file of bars."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving_fixtures import Served
from small_runs import EIGHT, FIVE_DAYS, ROOT, bars_file
from test_exported_system import exported

from mtquant_rllib.serving.decision import Decision

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "decisions.md").read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_the_code_of_the_document_runs(
    desk: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "systems").mkdir()
    exported(desk.policies, tmp_path / "systems" / "real")
    bars_file(tmp_path, dict.fromkeys(EIGHT, FIVE_DAYS))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    assert len(SNIPPETS) == 3
    assert names["decision"] == Decision.from_json(capsys.readouterr().out.splitlines()[-1])
