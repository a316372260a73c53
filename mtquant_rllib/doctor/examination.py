"""All checks in the order in which a run would meet what they look for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.doctor import here, machines
from mtquant_rllib.doctor.findings import Finding, refused


def examine(
    config: str,
    overrides: Sequence[str],
    *,
    bars: Path | None,
    macro: Path | None,
    run: Path | str,
    address: str | None,
) -> Iterator[Finding]:
    """Findings as they come. run: the folder that runs would lie in, or a run's own; or an address in an object store.

    Parameters are those of `training.curriculum.train`.
    """
    from mtquant_rllib.env.data import cache_folder

    loaded: list[Settings] = []

    def configuration() -> Iterator[Finding]:
        loaded.append(Settings.load(config, overrides))
        yield Finding("config", "ok", config)

    yield from refused("config", configuration)
    yield from here.packages()
    if not loaded:
        return
    (settings,) = loaded
    cache: list[Path] = []

    def folders() -> Iterator[Finding]:
        yield from here.object_store(run) if isinstance(run, str) else here.storage("runs", run)
        cache.append(cache_folder())
        yield from here.storage("cache", cache[0])

    yield from refused("storage", folders)
    yield from here.gpus(settings)
    yield from here.tracker(settings)
    if address is None:
        from mtquant_rllib.training.session.ray_session import local_node

        yield from here.shared_memory(settings)
        yield from machines.cpus(settings)
        yield from machines.plan(settings, [local_node(settings)])
    elif cache:
        yield from refused("cluster", lambda: _cluster(settings, address, run))
    if cache:
        yield from refused("market", lambda: here.market(settings, bars, macro))


def _cluster(settings: Settings, address: str, run: Path | str) -> Iterator[Finding]:
    from mtquant_rllib.training.session.ray_session import joined

    with joined(settings, address) as there:
        nodes = there.nodes()
        yield Finding("cluster", "ok", f"{address}: {len(nodes)} node{'s' if len(nodes) > 1 else ''}")
        yield from machines.plan(settings, [*nodes, *there.startable()])
        yield from machines.nodes(nodes, run)
