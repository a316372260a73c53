"""Explains a run: plays its policies once over a split and writes the page and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.evaluation.explain.collect import collect
from mtquant_rllib.evaluation.explain.influence import verdicts
from mtquant_rllib.evaluation.explain.write import write_explanation
from mtquant_rllib.training.inspection.opened_policies import open_policies
from mtquant_rllib.training.records.ownership import within


@dataclass(frozen=True)
class Explanation:
    """files: kind -> path. lines: what is said at once of an attention policy: its classifier against the detector,
    and whether its attention is faithful."""

    files: Mapping[str, Path]
    lines: tuple[str, ...]


def explain_run(
    run: Path,
    *,
    split: str = "test",
    agent: str | None = None,
    phase: int | None = None,
    out: Path | None = None,
    settings: Settings | None = None,
    overrides: Sequence[str] = (),
) -> Explanation:
    """Write the page, its pictures and figures.

    Parameters
    ----------
    agent
        Whose decisions are looked into.
    out
        The folder; by default `RUN/explain/SPLIT/AGENT`.
    phase, settings, overrides
        As of `assessment.evaluate_run`.

    Raises
    ------
    RunError
        When the folder is no run, or no phase of it is done, or the agent has not learned yet, or the page has no place
        to go.
    ConfigError
        When there is no such agent.
    """
    opened = open_policies(run, split, phase=phase, settings=settings, overrides=overrides)
    universe = opened.settings.universe
    agent = universe.agent_ids[0] if agent is None else agent
    if agent not in universe.agent_ids:
        raise ConfigError(f"--agent {agent}: no such agent; there are {', '.join(universe.agent_ids)}")
    present = [group for group in agent_groups(opened.settings) if group.first_phase <= opened.phase]
    if not any(agent in group.agents for group in present):
        others = ", ".join(name for group in present for name in group.agents)
        raise RunError(
            f"{opened.run}: after phase {opened.phase} there is no {agent} yet; name another with --agent ({others}), "
            f"or carry the run on with `mtquant resume {opened.run}`"
        )
    folder = within(opened.run, opened.run / "explain" / split / agent) if out is None else out
    try:
        # Before the work: a page that cannot be written is not worth minutes.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: no folder to write the page into: {error.strerror}") from error
    material = collect(
        opened.settings,
        opened.data,
        opened.states,
        agent,
        equal_allocation=opened.phase == 1,
        facts=opened.facts,
    )
    opened.looked("explanation", agent=agent)
    lines: list[str] = []
    if material.classifier is not None:
        lines += material.classifier.lines()
    lines += verdicts(material.influence)
    return Explanation(write_explanation(material, opened.settings, folder), tuple(lines))
