"""Measured complexities beside the stated ones: exponents fitted to cost over size, and those of counted operations.

The design document states O(n^2 d) time and O(n^2) space of attention over n tokens of width d, O(k) of regime
detection over a window of k bars, and O(batch x hidden^2) of SAC's updates. Each is a sweep over one size, all others
held: the exponent of the bound, the one that counting multiply-adds over the same sizes gives, and the one that time
shows. They need not agree: a sweep over small sizes sees what a call costs however little it does, while large matrix
products are better used by the machine than small ones. O( ) is a bound: what grows slower keeps it.

The document's statement on attention is one on its mixing, and is held to that. A layer projects its tokens before and
after, so its bound is n^2 d + n d^2 and grows with the square of the width: with the document's four tokens nearly all
of its time is the second term. The network around it, for which nothing is stated, spends its time likewise.

One thread throughout. Beside the sweeps stands one comparison: the document's heads over two processes (`heads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mtquant_rllib.bench.heads import measure_heads
from mtquant_rllib.bench.power_law import Growth, exponent_of, measure_growth
from mtquant_rllib.config.sections.features import RegimesConfig
from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.engine.learning.sac.update import ACTOR, ALPHA, CRITICS, SACStack
from mtquant_rllib.engine.replay.replay import Batch
from mtquant_rllib.features.regimes import detect
from mtquant_rllib.policies.attention.cost import attention_cost
from mtquant_rllib.policies.attention.regime_network import RegimeNetwork
from mtquant_rllib.policies.attention.self_attention import SelfAttention
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.policies.networks import GroupedShape
from mtquant_rllib.universe import META

MIXING, LAYER = "n^2 d", "n^2 d + n d^2"
"""Bounds of attention over n tokens of width d: the document's, and that of a layer with its linear products."""

NEAR = 0.25
"""An exponent this far from the stated one is not what was stated."""


BEYOND = "beyond the bound"


@dataclass(frozen=True)
class Sizes:
    """What is swept, and what is held while something else is. repeats: windows at each size."""

    mixed_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024)
    mixed_widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    mixed_rows: int = 4
    tokens: tuple[int, ...] = (4, 8, 16, 32, 64)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    rows: tuple[int, ...] = (16, 64, 256, 1024)
    layers: tuple[int, ...] = (1, 2, 4, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    columns: int = 128
    row_held: int = 64
    windows: tuple[int, ...] = (10, 20, 40, 80, 160)
    bars: int = 2000
    sac_rows: tuple[int, ...] = (64, 128, 256, 512, 1024)
    sac_hidden: tuple[int, ...] = (128, 256, 512, 1024)
    split_rows: int = 256
    split_calls: int = 5
    repeats: int = 5


@dataclass(frozen=True)
class Sweep:
    """bound: what holds it, empty where nothing is stated; stated and counted: exponents over this size, None where
    there are none."""

    name: str
    over: str
    bound: str
    stated: float | None
    counted: float | None
    growth: Growth

    def verdict(self) -> str:
        if self.stated is None:
            return ""
        apart = self.growth.exponent - self.stated
        if abs(apart) <= NEAR:
            return "as stated"
        return "within the bound, and slower" if apart < 0 else BEYOND

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "over": self.over,
            "bound": self.bound,
            "stated": self.stated,
            "counted": self.counted,
            "verdict": self.verdict(),
            **self.growth.to_dict(),
        }


def bench_attention(settings: Settings, sizes: Sizes) -> Mapping[str, Any]:
    """All sweeps; the bytes that weights of attention take, which are counted and not fitted; heads over processes."""
    heads = _heads(settings, sizes)
    torch.manual_seed(settings.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sweeps = [
            *_mixing(sizes),
            *_layer(settings, sizes),
            *_network(settings, sizes),
            _detection(settings, sizes),
            *_sac(settings, sizes),
        ]
    finally:
        torch.set_num_threads(threads)
    tokens = sizes.mixed_tokens
    return {
        "sweeps": [sweep.to_dict() for sweep in sweeps],
        "weights_bytes": dict(zip(map(str, tokens), _weight_bytes(settings, tokens), strict=True)),
        "weights_exponent": exponent_of(tokens, _weight_bytes(settings, tokens)),
        "tokens_of_the_document": {part: cost.multiply_adds for part, cost in _parts(settings).items()},
        "heads_over_processes": heads,
        "sizes": vars(sizes),
    }


# -- attention itself -------------------------------------------------------------------------------------------------


def _mixing(sizes: Sizes) -> list[Sweep]:
    """softmax(Q K' / sqrt(D)) V of one head: 2 n^2 d multiply-adds."""

    def work(tokens: int, width: int) -> Callable[[], Any]:
        q, k, v = (torch.randn(sizes.mixed_rows, tokens, width) for _ in range(3))
        return lambda: (q @ k.mT / math.sqrt(width)).softmax(dim=-1) @ v

    held_width, held_tokens = 256, 256
    return [
        Sweep(
            "mixing",
            "tokens",
            MIXING,
            2.0,
            2.0,
            measure_growth({n: work(n, held_width) for n in sizes.mixed_tokens}, sizes.repeats),
        ),
        Sweep(
            "mixing",
            "width",
            MIXING,
            1.0,
            1.0,
            measure_growth({d: work(held_tokens, d) for d in sizes.mixed_widths}, sizes.repeats),
        ),
    ]


def _layer(settings: Settings, sizes: Sizes) -> list[Sweep]:
    """The attention layer as it is built, with its linear layers: 4 n d^2 + 2 n^2 d multiply-adds a row."""
    base = settings.networks.attention

    def work(tokens: int, width: int) -> Callable[[], Any]:
        layer = SelfAttention(base.model_copy(update={"width": width}))
        rows = torch.randn(sizes.mixed_rows, tokens, width)

        def run() -> None:
            with torch.inference_mode():
                layer(rows, need_weights=True)

        return run

    def counted(tokens: int, width: int) -> int:
        return 4 * tokens * width**2 + 2 * tokens**2 * width

    tokens, width = (*sizes.tokens, *sizes.mixed_tokens[1:]), base.width
    return [
        Sweep(
            "attention layer",
            "tokens",
            LAYER,
            2.0,
            exponent_of(tokens, [counted(n, width) for n in tokens]),
            measure_growth({n: work(n, width) for n in tokens}, sizes.repeats),
        ),
        Sweep(
            "attention layer",
            "width",
            LAYER,
            2.0,
            exponent_of(sizes.mixed_widths, [counted(4, d) for d in sizes.mixed_widths]),
            measure_growth({d: work(4, d) for d in sizes.mixed_widths}, sizes.repeats),
        ),
    ]


def _weight_bytes(settings: Settings, tokens: tuple[int, ...]) -> list[int]:
    """Of one row and layer, as they lie in memory when somebody looks."""
    attention = SelfAttention(settings.networks.attention)
    sizes = []
    for n in tokens:
        with torch.no_grad():
            _, weights = attention(torch.zeros(1, n, settings.networks.attention.width), need_weights=True)
        sizes.append(weights.nbytes)
    return sizes


# -- the network around it --------------------------------------------------------------------------------------------


def _network(settings: Settings, sizes: Sizes) -> list[Sweep]:
    base = settings.networks.attention

    def grouped(groups: int) -> GroupedShape:
        columns = sizes.columns // groups
        return GroupedShape(tuple((f"group_{g}", columns) for g in range(groups)), actions=5)

    def sweep(over: str, values: tuple[int, ...], **held: int) -> Sweep:
        works, counted = {}, []
        for value in values:
            given = {"tokens": 4, "rows": sizes.row_held, **held, over: value}
            shape = grouped(given.pop("tokens"))
            rows = given.pop("rows")
            config = base.model_copy(update=given)
            works[value] = _forward(RegimeNetwork(shape, config, 0.01), rows)
            counted.append(rows * sum(cost.multiply_adds for cost in attention_cost(shape, config).values()))
        return Sweep("network", over, "", None, exponent_of(values, counted), measure_growth(works, sizes.repeats))

    return [
        sweep("tokens", sizes.tokens),
        sweep("width", sizes.widths),
        sweep("rows", sizes.rows),
        sweep("layers", sizes.layers),
        sweep("heads", sizes.heads),
    ]


def _forward(network: nn.Module, rows: int) -> Callable[[], Any]:
    shape: Any = network.shape
    obs = torch.randn(rows, shape.observation)

    def work() -> None:
        with torch.inference_mode():
            network(obs)

    return work


def _document() -> GroupedShape:
    """50 features in four groups, five weights."""
    return GroupedShape((("price", 13), ("volume", 12), ("technical", 13), ("momentum", 12)), actions=5)


def _parts(settings: Settings) -> Mapping[str, Any]:
    """Where the multiply-adds of the document's own network go."""
    return attention_cost(_document(), settings.networks.attention)


def _heads(settings: Settings, sizes: Sizes) -> Mapping[str, Any]:
    """The document's encoder in one process and with its heads over two."""
    config = settings.networks.attention
    return measure_heads(
        _document().widths, config, rows=sizes.split_rows, calls=sizes.split_calls, repeats=sizes.repeats
    )


# -- regime detection -------------------------------------------------------------------------------------------------


def _detection(settings: Settings, sizes: Sizes) -> Sweep:
    """All bars of one proxy, whatever the window: O(k) for each is stated."""
    returns = 0.01 * np.random.default_rng(settings.seed).standard_normal((sizes.bars, 1))
    config: RegimesConfig = settings.features.regimes

    def work(window: int) -> Callable[[], Any]:
        wide = config.model_copy(update={"window_bars": window})
        return lambda: detect(returns, wide)

    growth = measure_growth({window: work(window) for window in sizes.windows}, sizes.repeats)
    return Sweep("regime detection", "window", "k", 1.0, None, growth)


# -- SAC --------------------------------------------------------------------------------------------------------------


def _sac(settings: Settings, sizes: Sizes) -> list[Sweep]:
    """One step of the meta-controller's actor, twin critics, alpha and targets."""
    rows_held, hidden_held = settings.sac.batch_size, 256

    def swept(over: str, values: tuple[int, ...], stated: float) -> Sweep:
        works, counted = {}, []
        for value in values:
            hidden, rows = (hidden_held, value) if over == "batch" else (value, rows_held)
            module = _sac_module(settings, hidden)
            works[value] = _sac_step(module, rows, settings.learner)
            weights = [p for p in (*module.policy.parameters(), *module.critics.online.parameters()) if p.ndim == 2]
            counted.append(rows * sum(weight.numel() for weight in weights))
        return Sweep(
            "SAC step",
            over,
            "batch hidden^2",
            stated,
            exponent_of(values, counted),
            measure_growth(works, sizes.repeats),
        )

    return [swept("batch", sizes.sac_rows, 1.0), swept("hidden", sizes.sac_hidden, 2.0)]


def _sac_module(settings: Settings, hidden: int) -> Any:
    tree = settings.model_dump(mode="json")
    tree["networks"]["names"]["meta"] = "meta"
    tree["meta_controller"] |= {"hidden_dim": hidden, "hidden_dim_2": hidden}
    tree["sac"]["critic"]["hidden"] = [hidden, hidden]
    own = Settings.model_validate(tree)
    modules: Any = module_specs(own, only=(META,), sac=(META,)).build()
    return modules[META]


def _sac_step(module: Any, rows: int, options: LearnerConfig) -> Callable[[], Any]:
    parts = {ACTOR: module.policy, **dict(zip(CRITICS, module.critics.online)), ALPHA: module.critics.entropy}
    optimizers: Any = {META: {name: torch.optim.Adam(part.parameters(), lr=1e-4) for name, part in parts.items()}}
    stack = SACStack((META,), [module], optimizers, tau=0.005, grad_clip=10.0, action_penalty=0.0, options=options)
    stack.load()
    rng, shape = np.random.default_rng(0), module.policy.shape

    def drawn(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32)

    batch = Batch(
        observation=drawn(rows, shape.observation),
        action=drawn(rows, shape.actions),
        next_observation=drawn(rows, shape.observation),
        reward=drawn(rows),
        discount=np.full(rows, 0.9, np.float32),
        weight=np.ones(rows, np.float32),
        regime=np.zeros(rows, np.int64),
        leaves=np.arange(rows),
        n_stored=rows,
    )
    return lambda: stack.step([batch], 0, with_metrics=False)
