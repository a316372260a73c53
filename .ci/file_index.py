"""Writes docs/files.md: every file of the package with the first sentence of its docstring, room by room.

python .ci/file_index.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mtquant_rllib"
INDEX = ROOT / "docs" / "files.md"
WIDTH = 148
HEAD = """\
# Every file, in one sentence

Paths are below `mtquant_rllib/`. [architecture.md](architecture.md) says how they work together, and where a change
goes. `python .ci/file_index.py` writes this page from the files' own docstrings; a test holds it to them.
"""


def first_sentence(path: Path) -> str:
    """The first paragraph of a file's docstring, up to its first full stop that ends a sentence."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    sentence = re.match(r".*?[^.](?=\.( |$))", text)
    return (sentence.group() if sentence else text).rstrip(":")


def index() -> str:
    lines = [HEAD]
    rooms = sorted({path.parent for path in PACKAGE.rglob("*.py")})
    for room in rooms:
        name = "" if room == PACKAGE else f"{room.relative_to(PACKAGE)}/"
        head = first_sentence(room / "__init__.py")
        lines.append(f"## {name or 'The package itself'}\n")
        if head:
            lines.append(textwrap.fill(f"{head}.", WIDTH) + "\n")
        for path in sorted(room.glob("*.py")):
            if path.name != "__init__.py":
                entry = f"- `{path.name}`: {first_sentence(path)}"
                lines.append(textwrap.fill(entry, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    INDEX.write_text(index())
