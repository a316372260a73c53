"""A self-contained HTML file of panels; the same material gives the same bytes."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import plotly.offline

from mtquant_rllib.evaluation.web_page.panel import Panel

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class PageSection:
    """panels under one heading; absent: why there are none, where there are none."""

    id: str
    title: str
    panels: tuple[Panel, ...]
    absent: str = ""


@dataclass(frozen=True)
class Page:
    """attention: arrays for the panels with choices, as `attention.encoded` packs them; choices: name -> what can be
    chosen, in the arrays' order. table: header and rows, in the dashboard."""

    title: str
    facts: str
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[PageSection]
    footer: str
    choices: Mapping[str, Sequence[str]]
    attention: Mapping[str, Any] | None = None
    table: Sequence[Sequence[str]] = ()

    def render(self) -> str:
        panels = [panel for section in self.sections for panel in section.panels]
        data = {
            "panels": {panel.id: panel.figure for panel in panels},
            "attention": self.attention,
        }
        template = Template((_HERE / "template.html").read_text(encoding="utf-8"))
        return template.substitute(
            title=html.escape(self.title),
            facts=html.escape(self.facts),
            links="".join(f'<a href="#{part.id}">{html.escape(part.title)}</a>' for part in self.sections),
            tiles="".join(
                f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>'
                for what, value in self.tiles
            ),
            table=_plain_table(self.table) if self.table else "",
            sections="\n".join(self._section(section) for section in self.sections),
            footer=html.escape(self.footer),
            style=(_HERE / "page.css").read_text(encoding="utf-8"),
            script=(_HERE / "page.js").read_text(encoding="utf-8"),
            plotly=plotly.offline.get_plotlyjs(),
            # A text in the data must not end its element.
            data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        )

    def write(self, path: Path) -> Path:
        """Write the file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(self.render(), encoding="utf-8")
        os.replace(part, path)
        return path

    def _section(self, section: PageSection) -> str:
        absent = f'<div class="panel absent">{html.escape(section.absent)}</div>' if section.absent else ""
        panels = "\n".join(self._panel(panel) for panel in section.panels)
        return f'<section id="{section.id}"><h2>{html.escape(section.title)}</h2>{absent}{panels}</section>'

    def _panel(self, panel: Panel) -> str:
        selects = "".join(
            f'<label>{name}<select name="{name}">'
            + "".join(f'<option value="{i}">{html.escape(text)}</option>' for i, text in enumerate(self.choices[name]))
            + "</select></label>"
            for name in panel.selects
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in panel.notes)
        return (
            f'<article class="panel" id="{panel.id}"><h3>{html.escape(panel.title)}</h3>'
            f'<p class="lead">{html.escape(panel.lead)}</p>'
            + (f'<div class="selects">{selects}</div>' if selects else "")
            + f'<div class="figure"><div class="chart" data-panel="{panel.id}" style="height:{panel.height_px}px">'
            + "</div></div>"
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
            + (_table(panel.table) if panel.table else "")
            + "</article>"
        )


def _table(rows: Sequence[Sequence[str]]) -> str:
    return f"<details><summary>The figures as a table</summary>{_plain_table(rows)}</details>"


def _plain_table(rows: Sequence[Sequence[str]]) -> str:
    def row(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    body = "".join(row(texts, "td") for texts in rows[1:])
    head = row(rows[0], "th")
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
