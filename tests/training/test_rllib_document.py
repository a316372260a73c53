"""What docs/rllib.md says can be done, can be done: its blocks run, one after the other, in a fresh process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_runs import ROOT

PAGE = (ROOT / "docs" / "rllib.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
CHECKPOINT = "runs/mine/phase_3/desk/checkpoint_000012"


def test_the_page_has_the_blocks_it_is_read_for() -> None:
    for call in ("from_checkpoint", "save_to_path", ".evaluate()", "RLModule.from_checkpoint", '"mtquant_desk"'):
        assert any(call in block for block in BLOCKS), call


@pytest.mark.ray
@pytest.mark.slow
def test_the_blocks_run(five_lines: Path, tmp_path: Path) -> None:
    shutil.copy(five_lines / "tiny.yaml", tmp_path)
    there = sorted((five_lines / "runs/mine/phase_3/desk").glob("checkpoint_*"))
    # The one before the last: some of the budget is left.
    shutil.copytree(there[-2], tmp_path / "copied")
    code = "".join(BLOCKS).replace(CHECKPOINT, "copied").replace("laptop.yaml", "tiny.yaml")
    (tmp_path / "page.py").write_text('if __name__ == "__main__":\n' + textwrap.indent(code, "    "))
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONHASHSEED", "MTQUANT_CACHE")}
    # Ray joins whatever cluster it finds on the machine otherwise.
    env |= {"RAY_ADDRESS": "local", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
    assert "EURUSD" in done.stdout
