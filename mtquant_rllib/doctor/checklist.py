"""All checks in the order in which a run would meet what they look for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.doctor import cluster_checks, local_checks
from mtquant_rllib.doctor.findings import CheckResult, refused


def examine(
    config: str,
    overrides: Sequence[str],
    *,
    bars: Path | None,
    macro: Path | None,
    run: Path | str,
    address: str | None,
) -> Iterator[CheckResult]:
    """Findings as they come. run: the folder that runs would lie in, or a run's own; or an address in an object store.

    Parameters are those of `training.curriculum.driver.train`.
    """
    from mtquant_rllib.env.prepared.data import cache_folder

    loaded: list[Settings] = []

    def configuration() -> Iterator[CheckResult]:
        loaded.append(Settings.load(config, overrides))
        yield CheckResult("config", "ok", config)

    yield from refused("config", configuration)
    yield from local_checks.packages()
    if not loaded:
        return
    (settings,) = loaded
    cache: list[Path] = []

    def folders() -> Iterator[CheckResult]:
        if isinstance(run, str):
            yield from local_checks.object_store(run)
            yield from local_checks.signing_key()
        else:
            yield from local_checks.storage("runs", run)
        cache.append(cache_folder())
        yield from local_checks.storage("cache", cache[0])

    yield from refused("storage", folders)
    yield from local_checks.gpus(settings)
    yield from local_checks.tracker(settings)
    if address is None:
        from mtquant_rllib.training.session.ray_session import local_node

        yield from local_checks.shared_memory(settings)
        yield from cluster_checks.cpus(settings)
        yield from cluster_checks.plan(settings, [local_node(settings)])
    elif cache:
        yield from refused("cluster", lambda: _cluster(settings, address, run))
    if cache:
        yield from refused("market", lambda: local_checks.market(settings, bars, macro))


def _cluster(settings: Settings, address: str, run: Path | str) -> Iterator[CheckResult]:
    from mtquant_rllib.training.session.ray_session import joined

    with joined(settings, address) as there:
        nodes = there.nodes()
        yield CheckResult("cluster", "ok", f"{address}: {len(nodes)} node{'s' if len(nodes) > 1 else ''}")
        yield from cluster_checks.plan(settings, [*nodes, *there.startable()])
        yield from cluster_checks.nodes(nodes, run, settings.resources.learners)
