"""Money is conserved: ten million environment-bars of random actions, and the largest error among them.

*Run it*

    python experiments/conservation.py --bars 10000000
    python experiments/conservation.py --market bars.parquet --macro macro.parquet

*What to expect.* At every bar the change of equity equals price P&L minus costs minus financing, as itemised by
instrument, to about 1e-15 of equity: rounding. The limit is 1e-9. A minute or two for each market.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mtquant_rllib.bench.core import RandomActionDriver
from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded, prepare_files

LIMIT = 1e-9


def largest_error(settings: Settings, folder: Path, split: str, n_bars: int, n_envs: int) -> tuple[float, int]:
    """Largest |change of equity - (price - costs - financing)| over equity, and the environment-bars it was looked
    for in."""
    drive = RandomActionDriver(settings, DeskData.open(folder, split), n_envs, settings.seed)
    book, worst, done = drive.desk.book, 0.0, 0
    ends = np.empty(n_envs)

    def keep(_: object) -> None:
        ends[:] = book.equity

    while done < n_bars:
        before = book.equity.copy()
        drive.step(after_advance=keep)
        itemised = (book.pnl_ccy - book.cost_ccy - book.financing_ccy).sum(axis=1)
        worst = max(worst, float(np.max(np.abs(ends - before - itemised) / np.abs(before))))
        done += n_envs
    return worst, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=10_000_000, help="environment-bars (default: %(default)s)")
    parser.add_argument("--environments", type=int, default=1024)
    parser.add_argument("--market", type=Path, help="bars; without them the embedded market")
    parser.add_argument("--macro", type=Path)
    parser.add_argument("--config", default="default.yaml")
    args = parser.parse_args()
    settings = Settings.load(args.config)
    folder = prepare_embedded(settings) if args.market is None else prepare_files(settings, args.market, args.macro)
    for split in ("train", "test"):
        worst, done = largest_error(settings, folder, split, args.bars // 2, args.environments)
        print(f"{split}: largest relative error {worst:.2e} in {done:,} environment-bars; limit {LIMIT:.0e}")
        if worst > LIMIT:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
