"""`mtquant journal`, and what docs/journal.md says."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from pathlib import Path

import pytest
from trading import ONE, Desk, order, settings

from mtquant_rllib import strict_json
from mtquant_rllib.cli import build_parser, main
from mtquant_rllib.serving.execution.brokers.file_drop import FileDropBroker
from mtquant_rllib.serving.execution.journal import Journal
from mtquant_rllib.serving.execution.journal_file import checked, opened_to_read
from mtquant_rllib.serving.execution.order_states import TRANSITIONS
from mtquant_rllib.serving.execution.trading_state import KINDS, fold

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "journal.md").read_text()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a desk that has bought three lot steps and waits for two more orders."""
    desk = Desk(tmp_path_factory.mktemp("journal") / "desk.journal", settings(ONE))
    execution = desk.start()
    execution.submit({"id": "d1"}, [order(lots=0.03)])
    desk.after(execution, 1)
    desk.after(execution, 3600)
    execution.submit({"id": "d2"}, [order(decision="d2", lots=0.02, side="sell")])
    desk.after(execution, 1)
    desk.close()
    return desk.path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["journal", *words]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return found.out + found.err


def test_a_whole_journal_is_verified_with_its_last_hash(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "verify", str(path))
    tree = json.loads(said(capsys, "verify", str(path), "--json"))
    assert f"all {tree['events']} events are as they were written" in found
    assert tree["hash"] in found
    assert tree["faults"] == []
    assert said(capsys, "verify", str(path), "--noted", tree["hash"])
    assert "no event has the noted hash 00" in said(capsys, "verify", str(path), "--noted", "00", code=1)


def test_events_are_shown_by_kind_and_the_last_of_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "show", str(path), "--kind", "report").splitlines()
    assert len(lines) == 4
    assert '"report":"filled"' in said(capsys, "show", str(path), "--kind", "report", "--json").replace(" ", "")
    assert [event["kind"] for event in json.loads(said(capsys, "show", str(path), "--json", "--last", "1"))] == [
        "report"
    ]
    assert "expected one of begun, decision" in said(capsys, "show", str(path), "--kind", "x", code=2)


def test_a_replay_is_the_state_at_that_event(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened_to_read(path) as connection:
        events = checked(connection)[0]
    assert said(capsys, "replay", str(path), "--json").strip() == fold(events).to_json()
    assert said(capsys, "replay", str(path), "--json", "--until", "4").strip() == fold(events[:4]).to_json()
    found = said(capsys, "replay", str(path))
    assert re.search(r"one +EURUSD +3 +-6000\.00", found)
    assert re.search(r"d2\.EURUSD\.one\.1 +sell +0/2 +acknowledged", found)
    assert "flat" in said(capsys, "replay", str(path), "--until", "1")
    assert "expected at least 1" in said(capsys, "replay", str(path), "--until", "0", code=2)
    assert f"the journal has {len(events)} events" in said(capsys, "replay", str(path), "--until", "999", code=2)


def test_damage_is_named_and_is_exit_code_1(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.journal"
    copy.write_bytes(path.read_bytes())
    connection = sqlite3.connect(copy)
    connection.execute("DROP TRIGGER no_removal")
    connection.execute("DELETE FROM events WHERE number = 3")
    connection.commit()
    connection.close()
    assert "DAMAGED  event 3 taken out" in said(capsys, "verify", str(copy), code=1)
    assert json.loads(said(capsys, "verify", str(copy), "--json", code=1).split("mtquant:")[0])["faults"]
    for what in ("show", "replay"):
        assert "mtquant journal verify" in said(capsys, what, str(copy), code=1)
    assert "no such journal" in said(capsys, "verify", str(tmp_path / "none"), code=2)


def test_events_that_cannot_follow_each_other_are_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain that is whole, of events that no desk writes."""
    path = tmp_path / "odd.journal"
    with Journal.open(path) as journal:
        journal.append([("decision", {"id": "d1"})], Desk(tmp_path / "x", settings(ONE)).clock.now())
    assert "event 1: event 'decision': a journal begins with `begun`" in said(capsys, "verify", str(path), code=1)


def test_commands_of_the_document_parse() -> None:
    commands = [line.split("#")[0] for line in DOCUMENT.splitlines() if line.startswith("mtquant ")]
    assert len(commands) == 3
    for command in commands:
        assert build_parser().parse_args(shlex.split(command)[1:]).handler


def test_the_documents_table_is_the_table_of_states() -> None:
    rows = re.findall(r"^\| ([a-z_, ]+) \| ?([a-z_, ]*?) ?\|$", DOCUMENT, flags=re.MULTILINE)[1:]
    written = {state: set(after.split(", ")) - {""} for states, after in rows for state in states.split(", ")}
    assert written == {str(state): {str(after) for after in leads.values()} for state, leads in TRANSITIONS.items()}


def test_the_documents_answers_are_read(tmp_path: Path) -> None:
    for name, content in re.findall(
        r"^(answers/\S+)\n(.*?)(?=^answers/|^```)", DOCUMENT, flags=re.MULTILINE | re.DOTALL
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    house = FileDropBroker("house", tmp_path)
    assert [report.kind for report in house.poll(0)] == ["acknowledged", "filled"]
    assert house.snapshot().positions == {"EURUSD": 0.03}


def test_the_documents_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    brokers = "{house: {kind: file_drop, share: 1, orders_accepted: always, folder: house}, simulated: null}"
    mine = Path("mine.yaml")
    mine.write_text(f"extends: default.yaml\nserving:\n  brokers: {brokers}\n")
    record = {"last_report": 0, "currency": "USD", "balance_ccy": 1e6, "positions": {}, "orders": {}}
    Path("house/answers").mkdir(parents=True)
    Path("house/answers/snapshot.json").write_text(strict_json.dumps(record))
    code = re.search(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert code is not None
    exec(code[1], {"orders": [order(decision="2024-01-08")]})
    assert (tmp_path / "desk.journal").is_file()


def test_every_kind_of_event_is_explained() -> None:
    from mtquant_rllib.serving.execution import trading_state

    assert all(f"`{kind}`" in (trading_state.__doc__ or "") for kind in KINDS)
