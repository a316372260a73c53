"""What six small runs come to, as hashes, so that two versions of the project can be held against each other.

    python nightly/same_bytes.py write before.json      in the version before, with its own environment
    python nightly/same_bytes.py write after.json       in the version after
    python nightly/same_bytes.py compare before.json after.json

Hashed are the module states, optimisers, replay and environments in the newest checkpoints, the curves without their
times, and the figures and books of an evaluation. Names may change in between: what is compared is told by the place
where it stands, so `compare` also counts values that stand elsewhere (`moved`) apart from those that are gone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import runs

RUNS: dict[str, tuple[str, ...]] = {
    "desk, PPO": (),
    "desk, PPO, 2 runners": ("resources.runners=2", "resources.cpus=4"),
    "desk, SAC": runs.SMALL_SAC,
    "desk, SAC then PPO then SAC": (*runs.SMALL_SAC, "recipe.algorithms=[sac, ppo, sac]"),
    "allocator, SAC": (*runs.SMALL_SAC[1:], "allocator.algorithm=sac", "allocator.hidden=[16, 16]"),
    "allocator, PPO": ("allocator.algorithm=ppo", "allocator.hidden=[16, 16]"),
}
SCALE = "0.00107"
"""Budgets that no batch divides."""
SMALL_ATTENTION = "networks.attention={width: 16, heads: 2}"
VOLATILE = ("seconds", "created", "updated", "run", "folder", "path", "versions", "git", "version", "machine")
"""Keys of a report that tell of the process, not of the result."""


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and words of a report by their place, what tells of the process left out."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in VOLATILE:
                yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{path}/{number}")
    else:
        yield path, tree


def result_of(folder: Path, name: str, overrides: tuple[str, ...]) -> dict[str, str]:
    """The hashes of one run, by place."""
    config = ("--config", "allocator.yaml") if name.startswith("allocator") else ()
    words = runs.settings(*overrides, SMALL_ATTENTION)
    train = runs.command(folder, "train", "--run", "x", "--budget-scale", SCALE, *config, *words)
    if train.end() != 0:
        raise SystemExit(f"{name}: {train.text[-3000:]}")
    judged = runs.command(folder, "evaluate", "x", "--json", "report.json")
    if judged.end() != 0:
        raise SystemExit(f"{name}: {judged.text[-3000:]}")
    found = runs.fingerprint(folder / "runs" / "x")
    report = json.loads((folder / "report.json").read_text())
    return found | {f"report{place}": repr(value) for place, value in leaves(report)}


def write(path: Path) -> None:
    found = {}
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = result_of(Path(folder), name, overrides)
        print(f"{name}: {len(found[name]):,} values", flush=True)
    path.write_text(json.dumps(found, indent=0))


def compare(before: Path, after: Path) -> int:
    """Prints a line a run; the number of values that differ."""
    one, other, total = json.loads(before.read_text()), json.loads(after.read_text()), 0
    for name in one:
        first, second = one[name], other.get(name, {})
        both = first.keys() & second.keys()
        differing = sorted(key for key in both if first[key] != second[key])
        gone = Counter(first[key] for key in first.keys() - both)
        new = Counter(second[key] for key in second.keys() - both)
        moved = (gone & new).total()
        lost, fresh = gone.total() - moved, new.total() - moved
        print(
            f"{name}: {len(both):,} in the same place, {len(differing)} of them differ; {moved} moved, {lost} gone, "
            f"{fresh} new"
        )
        for key in [*differing, *sorted(first.keys() - both)][:10]:
            print(f"  {key}")
        total += len(differing) + lost
    return total


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    if what == "write":
        write(Path(paths[0]))
    else:
        raise SystemExit(1 if compare(Path(paths[0]), Path(paths[1])) else 0)
