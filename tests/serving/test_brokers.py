"""The simulated broker, and the one behind a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from trading import MONDAY, ONE, Desk, hourly, settings

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.serving.execution.brokers.broker import (
    BrokerError,
    BrokerOrder,
    BrokerUnavailable,
    KnownOrder,
    Report,
)
from mtquant_rllib.serving.execution.brokers.file_drop import FileDropBroker
from mtquant_rllib.serving.execution.brokers.instruments import every_brokers_instruments
from mtquant_rllib.serving.execution.brokers.simulated import BarPrices, SimulatedBroker
from mtquant_rllib.serving.execution.clock import ManualClock


def order(id: str = "x", **changes: object) -> BrokerOrder:
    values = {
        "client_order_id": id, "symbol": "EURUSD", "side": "buy", "lots": 0.05, "type": "market_on_open",
        "limit_low": None, "limit_high": None, "stop": None, "accept_price": None,
        "valid_until": "2024-01-12T22:00:00+00:00",
    }  # fmt: skip
    return BrokerOrder(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chosen() -> Settings:
    return settings(ONE)


def broker(chosen: Settings, clock: ManualClock, seed: int = 0, **changes: object) -> SimulatedBroker:
    config = chosen.serving.simulated_broker.model_copy(update=changes)
    rows = every_brokers_instruments(chosen)["one"]
    prices = BarPrices({name: hourly([1.0, 2.0, 3.0, 4.0]) for name in rows})
    return SimulatedBroker("one", rows, prices, config, clock, seed, currency="USD", balance_ccy=1000.0)


def said(one: SimulatedBroker) -> list[tuple[str, float, float | None]]:
    return [(report.kind, report.lots, report.price) for report in one.poll(0)]


@pytest.mark.parametrize(("type", "price"), [("market_on_open", 2.0), ("market_on_close", 1.0)])
def test_an_order_fills_at_the_first_open_or_close_after_it_has_arrived(
    chosen: Settings, type: str, price: float
) -> None:
    """Sent at the first hour's open, it arrives a second later: the next open is 2.0, the next close 1.0."""
    clock = ManualClock(MONDAY)
    one = broker(chosen, clock)
    one.send(order(type=type))
    clock.advance(3600)
    assert said(one) == [("acknowledged", 0.0, None), ("filled", 0.05, price)]
    assert one.record().positions == {"EURUSD": 0.05}


def test_an_order_waits_for_a_bar_that_is_not_there_yet(chosen: Settings) -> None:
    clock, rows = ManualClock(MONDAY), every_brokers_instruments(chosen)["one"]
    prices = BarPrices({"EURUSD": []})
    one = SimulatedBroker(
        "one", rows, prices, chosen.serving.simulated_broker, clock, 0, currency="USD", balance_ccy=0.0
    )
    one.send(order())
    clock.advance(3600)
    assert said(one) == [("acknowledged", 0.0, None)]
    prices.add("EURUSD", hourly([1.0, 5.0])[1])
    assert said(one)[1:] == [("filled", 0.05, 5.0)]


def test_outside_of_its_band_an_order_reduces_and_nothing_more(chosen: Settings) -> None:
    clock = ManualClock(MONDAY)
    one = broker(chosen, clock)
    one.send(order("x", lots=0.03))
    clock.advance(3600)
    one.send(order("y", side="sell", lots=0.05, limit_low=0.5, limit_high=1.5))
    clock.advance(3600)
    assert said(one)[2:] == [("acknowledged", 0.0, None), ("filled", 0.03, 3.0), ("expired", 0.0, None)]
    assert one.record().positions == {}


@pytest.mark.parametrize(
    ("changes", "config", "kinds"),
    [
        ({"symbol": "EUR/USD"}, {}, ["rejected"]),
        ({"valid_until": "2024-01-08T22:00:00+00:00"}, {}, ["expired"]),
        ({"valid_until": "2024-01-08T22:30:00+00:00"}, {}, ["acknowledged", "expired"]),
        ({"accept_price": 1.5}, {}, ["rejected"]),
        ({}, {"reject_probability": 1.0}, ["rejected"]),
        ({}, {"requote_probability": 1.0}, ["acknowledged", "requoted"]),
        ({}, {"partial_fill_probability": 1.0}, ["acknowledged", "filled", "filled"]),
    ],
)
def test_what_becomes_of_an_order(chosen: Settings, changes: dict, config: dict, kinds: list[str]) -> None:
    clock = ManualClock(MONDAY)
    one = broker(chosen, clock, **config)
    one.send(order(**changes))
    clock.advance(3605)
    assert [kind for kind, *_ in said(one)] == kinds


def test_an_order_that_is_sent_twice_is_one_order(chosen: Settings) -> None:
    clock = ManualClock(MONDAY)
    one = broker(chosen, clock)
    one.send(order())
    one.send(order())
    clock.advance(3600)
    assert (one.sendings, one.record().positions) == ({"x": 2}, {"EURUSD": 0.05})


def test_the_fate_of_an_order_follows_from_seed_and_id_whenever_it_is_asked_for(chosen: Settings) -> None:
    config = {"reject_probability": 0.3, "partial_fill_probability": 0.5, "latency_seconds": (0.0, 50.0)}

    def run(seed: int, looks: int) -> list[tuple[str, float, float | None]]:
        clock = ManualClock(MONDAY)
        one = broker(chosen, clock, seed, **config)
        for number in range(20):
            one.send(order(f"x{number}"))
        for _ in range(looks):
            clock.advance(7200 / looks)
            one.poll(0)
        return said(one)

    assert run(0, 1) == run(0, 50)
    assert run(0, 1) != run(1, 1)


# The broker behind a folder.

ANSWERS: list[tuple[str, dict]] = [
    ("reports/1.json", {"number": 1, "client_order_id": "x", "kind": "acknowledged"}),
    ("reports/2.json", {"number": 2, "client_order_id": "x", "kind": "filled", "lots": 0.05, "price": 1.5}),
    (
        "snapshot.json",
        {
            "last_report": 2,
            "currency": "USD",
            "balance_ccy": 10,
            "positions": {"EURUSD": 0.05},
            "orders": {"x": {"symbol": "EURUSD", "side": "buy", "lots": 0.05, "filled_lots": 0.05, "is_open": False}},
        },
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "answers" / "reports").mkdir(parents=True)
    for name, tree in ANSWERS:
        (tmp_path / "answers" / name).write_text(strict_json.dumps(tree))
    return tmp_path


def test_an_order_is_one_whole_file_and_the_same_file_when_it_is_sent_again(folder: Path) -> None:
    house = FileDropBroker("house", folder)
    house.send(order("d1.EURUSD.house.1"))
    house.send(order("d1.EURUSD.house.1"))
    house.cancel("d1.EURUSD.house.1")
    names = sorted(path.name for path in (folder / "orders").iterdir())
    assert names == ["d1.EURUSD.house.1.cancel.json", "d1.EURUSD.house.1.json"]
    assert BrokerOrder(**json.loads((folder / "orders" / names[1]).read_text())) == order("d1.EURUSD.house.1")


def test_reports_are_read_from_a_number_on_and_unfinished_files_are_not(folder: Path) -> None:
    (folder / "answers" / "reports" / ".mtquant-half.3.json.1-ab").write_text("{")
    house = FileDropBroker("house", folder)
    assert house.poll(0) == [Report(1, "x", "acknowledged"), Report(2, "x", "filled", 0.05, 1.5)]
    assert [report.number for report in house.poll(1)] == [2]


def test_an_order_that_lies_in_the_folder_is_known_though_not_answered(folder: Path) -> None:
    house = FileDropBroker("house", folder)
    house.send(order("y"))
    house.cancel("y")
    assert house.snapshot().orders["y"] == KnownOrder("EURUSD", "buy", 0.05, 0.0, True)


def test_a_record_that_is_behind_the_reports_is_not_compared_with(folder: Path) -> None:
    (folder / "answers" / "reports" / "3.json").write_text("{}")
    with pytest.raises(BrokerUnavailable, match="is of report 2, and there is report 3"):
        FileDropBroker("house", folder).snapshot()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "answers/reports/2.json").write_text('{"number": 2'), r"reports/2.json: not an answer"),
        (lambda f: (f / "answers/reports/2.json").write_text("[]"), r"reports/2.json: not an answer"),
        (lambda f: (f / "answers/reports/2.json").write_bytes(b"\xff\xfe"), r"reports/2.json: not an answer"),
        (
            lambda f: (f / "answers/reports/2.json").write_text(strict_json.dumps({**ANSWERS[1][1], "number": 5})),
            "number = 5, kind = 'filled': expected 2",
        ),
        (
            lambda f: (f / "answers/reports/2.json").write_text(strict_json.dumps({**ANSWERS[1][1], "kind": "eaten"})),
            "kind = 'eaten': expected 2, and one of acknowledged",
        ),
        (
            lambda f: (f / "answers/reports/2.json").write_text(strict_json.dumps({**ANSWERS[1][1], "lots": "1"})),
            "lots = '1': expected a finite number",
        ),
        (
            lambda f: (f / "answers/reports/2.json").write_text(strict_json.dumps({**ANSWERS[1][1], "price": None})),
            "price: missing",
        ),
        (lambda f: (f / "answers/reports/2.json").write_text('{"number": 2, "lots": NaN}'), "lots = nan"),
    ],
)
def test_an_answer_that_is_none_is_named(folder: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(folder)
    with pytest.raises(BrokerError, match=said):
        FileDropBroker("house", folder).poll(0)


def test_a_folder_that_is_away_is_a_connection_that_is_not_there(tmp_path: Path) -> None:
    house = FileDropBroker("house", tmp_path / "away")
    for ask in (lambda: house.poll(0), house.snapshot):
        with pytest.raises(BrokerUnavailable):
            ask()
    (tmp_path / "away").write_text("a file")
    with pytest.raises(BrokerUnavailable):
        house.send(order())
    with pytest.raises(BrokerError, match="its id is no name of a file"):
        house.send(order("../x"))


def test_a_desk_trades_through_a_folder(tmp_path: Path) -> None:
    """The broker's side of the folder is played by a simulated broker."""
    from trading import order as desk_order

    desk = Desk(tmp_path / "desk.journal", settings(ONE))
    venue, folder = desk.brokers["one"], tmp_path / "house"
    (folder / "answers" / "reports").mkdir(parents=True)

    def answer() -> None:
        for path in sorted((folder / "orders").glob("*.json")) if (folder / "orders").is_dir() else ():
            venue.send(BrokerOrder(**json.loads(path.read_text())))
        for report in venue.poll(0):
            text = strict_json.dumps(report.to_dict())
            (folder / "answers" / "reports" / f"{report.number}.json").write_text(text)
        record = venue.record()
        orders = {id: known.__dict__ for id, known in record.orders.items()}
        (folder / "answers" / "snapshot.json").write_text(strict_json.dumps({**record.__dict__, "orders": orders}))

    answer()
    execution = desk.open({"one": FileDropBroker("one", folder)})
    execution.start()
    execution.submit({"id": "d1"}, [desk_order(lots=0.03)])
    for seconds in (0, 1, 3600):
        answer()
        desk.after(execution, seconds)
    answer()
    execution = desk.open({"one": FileDropBroker("one", folder)})
    assert execution.start().heard == 1
    assert execution.state.positions == {"one": {"EURUSD": 3}}
