"""What Tune asks Ray for on behalf of a trial."""

from __future__ import annotations

from collections.abc import Sequence

from ray.tune import PlacementGroupFactory

from mtquant_rllib.training.placement.planner import TrialResources

NODE_ID = "ray.io/node-id"
"""Ray's label of every node, with its id."""


def placement_group(
    asked: TrialResources, nodes: Sequence[str | None], allowed: Sequence[str], runners: int, learners: int
) -> PlacementGroupFactory:
    """What Tune asks Ray for: a bundle for the trial's own process, for each runner and for each learner.

    nodes: Ray's ids of their nodes, None for any; empty where nothing is bound. allowed: ids of the nodes that those
    which are not bound may run on; empty for any.
    """
    gpus = {"GPU": asked.gpus} if asked.gpus else {}
    own = {"CPU": asked.cpus, **({} if learners else gpus)}
    bundles = [own, *([{"CPU": asked.runner_cpus}] * runners), *([{"CPU": asked.learner_cpus, **gpus}] * learners)]
    nodes = nodes or [None] * len(bundles)
    if not any(nodes) and not allowed:
        return PlacementGroupFactory(bundles)
    elsewhere = {NODE_ID: f"in({','.join(allowed)})"} if allowed else {}
    selectors = [elsewhere if node is None else {NODE_ID: node} for node in nodes]
    return PlacementGroupFactory(bundles, bundle_label_selector=selectors)
