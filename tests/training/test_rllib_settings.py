"""No setting of RLlib's is taken without a word and read by nobody."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE, AlgorithmConfig

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.algorithm_config import build_config
from mtquant_rllib.training.phases import plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord, TrialRecord
from mtquant_rllib.training.rllib_settings import READ, READ_BY, attribute, refused

SETTERS = [
    name
    for name, function in vars(AlgorithmConfig).items()
    if inspect.isfunction(function) and not name.startswith("_") and "NotProvided" in inspect.getsource(function)
]
"""Methods of RLlib's configurations that set something."""


def config_of(algorithm: str, *overrides: str, phase: int = 3) -> Any:
    """A trial's configuration; its market is never opened."""
    settings = Settings.load("laptop.yaml", overrides=[f"recipe.algorithms={[algorithm] * 3}", *overrides])
    manifest = Manifest.begin("settings", settings, MarketRecord(kind="synthetic", data="/nowhere"), 1.0, [phase])
    manifest.phase(phase).trials["desk"] = TrialRecord(budget_bars=1000)
    return build_config(plan_named(settings, phase, "desk"), manifest, TrialResources(1.0, 1.0, 0.0))


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    return {algorithm: config_of(algorithm) for algorithm in ("ppo", "sac")}


def arguments(config: Any) -> dict[str, Any]:
    """Everything that the installed RLlib takes for this algorithm -> its default."""
    found = {}
    for owner in type(config).__mro__:
        for method in SETTERS:
            if owner.__module__.startswith("ray.") and method in vars(owner):
                found |= {
                    name: parameter.default
                    for name, parameter in inspect.signature(vars(owner)[method]).parameters.items()
                    if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
                }
    return found


def test_the_methods_that_set_something_are_found() -> None:
    assert {"training", "env_runners", "learners", "evaluation", "multi_agent", "rl_module", "debugging"} <= {*SETTERS}


@pytest.mark.parametrize("engine", ["batched", "rllib"])
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_every_argument_of_the_installed_rllib_is_read_or_refused(
    configs: dict[str, Any], algorithm: str, engine: str
) -> None:
    known, says_no = READ | READ_BY[algorithm], set(refused(algorithm, engine))
    batched_alone = set(refused(algorithm, "batched")) - set(refused(algorithm, "rllib"))
    taken = arguments(configs[algorithm])
    # What is deprecated and in neither list RLlib itself complains of.
    unknown = {
        name
        for name, default in taken.items()
        if name not in known | says_no | batched_alone
        and default is not DEPRECATED_VALUE
        and default != DEPRECATED_VALUE
    }
    assert not unknown, "new in RLlib: is it read here, or refused?"
    assert not known & says_no


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_every_refused_argument_is_refused_when_it_is_changed_and_says_what_to_use(
    configs: dict[str, Any], algorithm: str
) -> None:
    config = configs[algorithm]
    config.validate()
    checked = 0
    for name, instead in refused(algorithm, "batched").items():
        if name not in arguments(config):
            continue
        key = attribute(config, name)
        assert key is not None, f"{name}: where does RLlib keep it now?"
        before = getattr(config, key)
        setattr(config, key, object())
        with pytest.raises(ConfigError) as refusal:
            config.validate()
        assert str(refusal.value).startswith(f"{name} = ")
        assert instead in str(refusal.value)
        setattr(config, key, before)
        checked += 1
    config.validate()
    assert checked > 80


def test_rllibs_own_learner_may_be_told_what_the_batched_one_may_not() -> None:
    stock = config_of("ppo", "resources.engine=rllib")
    stock.training(use_critic=False, grad_clip_by="value").validate()
    with pytest.raises(ConfigError, match="optimizer"):
        stock.training(optimizer={"weight_decay": 0.1}).validate()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: setattr(config, "learning_rate", 1.0), "learning_rate: no setting of DeskPPOConfig"),
        (lambda config: config.desk.update(budget=5), r"desk\['budget'\]: unknown"),
        (lambda config: config.desk.update(budget_bars=0), r"desk\['budget_bars'\] = 0"),
        (lambda config: config.training(lr=[[0, 1e-3], [500, 0.0]]), "lr = .*learning_rate_final_frac"),
        (lambda config: config.training(clip_param=[[0, 0.2]]), "clip_param = .*expected a number"),
        (lambda config: config.environment("CartPole-v1"), "env = 'CartPole-v1'"),
        (lambda config: setattr(config, "seed", 5), r"seed = 5 with env_config\['seed'\] = 0"),
        (
            lambda config: config.rl_module(algorithm_config_overrides_per_module={"EURUSD": {"gamma": 0.5}}),
            r"\['EURUSD'\]\['gamma'\]: a module has no such setting of its own",
        ),
        (
            lambda config: config.rl_module(algorithm_config_overrides_per_module={"EURUSX": {"lr": 0.5}}),
            "no such module",
        ),
    ],
)
def test_what_cannot_be_meant_is_said(change: Any, said: str) -> None:
    config = config_of("ppo")
    change(config)
    with pytest.raises(ConfigError, match=said):
        config.validate()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("gamma", 0.5, r"training\(gamma"),
        ("learning_starts_frac", 0.5, "learning_starts_bars"),
        ("initial_alpha", 1.0, "modules are made from it"),
        ("bars_per_updat", 3, "did you mean bars_per_update"),
        ("tau", 7.0, "tau = 7.0"),
    ],
)
def test_of_sacs_numbers_those_that_are_read_elsewhere_are_refused(key: str, value: float, said: str) -> None:
    config = config_of("sac")
    config.sac[key] = value
    with pytest.raises(ConfigError, match=said):
        config.validate()


def test_the_seed_is_that_of_the_environments_too() -> None:
    config = config_of("ppo").debugging(seed=7)
    config.validate()
    assert config.env_config["seed"] == 7


def test_the_learning_rate_says_what_modules_have() -> None:
    config = config_of("ppo", "recipe.learning_rate=1e-3", "recipe.phase_learning_rate_fracs=[1, 1, 0.5]")
    assert config.lr == 5e-4
    assert set(config.desk["learning_rates"].values()) == {5e-4}
    config = config_of("sac", "recipe.phase_learning_rate_fracs=[1, 1, 0.5]")
    rates = {kind: getattr(config, f"{kind}_lr") for kind in ("actor", "critic", "alpha")}
    assert all(own == rates for own in config.desk["learning_rates"].values())


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_the_configuration_of_an_older_checkpoint_says_its_rates(configs: dict[str, Any], algorithm: str) -> None:
    today = configs[algorithm]
    state = today.get_state()
    state["desk"] = {key: item for key, item in state["desk"].items() if key != "base_rates"}
    if algorithm == "ppo":
        state |= {"lr": 1.0, "desk": {**state["desk"], "bars_per_update": 10}}
    else:
        state |= dict.fromkeys(today.rate_names, 1.0)
    older = type(today).from_state(state)
    older.algo_class = today.algo_class
    older.validate()
    assert older.desk["base_rates"] == today.desk["base_rates"]
    assert [getattr(older, name) for name in older.rate_names] == [getattr(today, name) for name in today.rate_names]
