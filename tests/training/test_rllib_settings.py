"""No setting of RLlib's is taken without a word and read by nobody."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE, AlgorithmConfig

from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import READ_OF_COPIED, EnvironmentConfig
from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.config.trial import ModuleSACRates
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.algorithm.rllib_settings import READ, READ_BY, attribute, refused
from mtquant_rllib.training.curriculum.phases import plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord, TrialRecord

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


@pytest.mark.slow
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
        (lambda config: config.training(budget_bars=0), "budget_bars = 0"),
        (lambda config: config.training(sac={"tau": 0.1}), r"training\(\): sac\."),
        (lambda config: config.training(learner={"precission": "float32"}), "did you mean learner.precision"),
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

    def changed() -> None:
        change(config)
        config.validate()

    with pytest.raises(ConfigError, match=said):
        changed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("gamma", 0.5, r"training\(gamma"),
        ("learning_starts_frac", 0.5, "learning_starts_bars"),
        ("initial_alpha", 1.0, "modules are made from it"),
        ("bars_per_gradient_ste", 3, "did you mean sac.bars_per_gradient_step"),
        ("tau", 7.0, "tau = 7.0"),
    ],
)
def test_of_sacs_numbers_those_that_are_read_elsewhere_are_refused(key: str, value: float, said: str) -> None:
    config = config_of("sac")
    with pytest.raises(ConfigError, match=said):
        config.training(sac={key: value}).validate()


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_what_a_trial_carries_is_plain_in_a_checkpoint_and_typed_for_whoever_reads_it(
    configs: dict[str, Any], algorithm: str
) -> None:
    config = configs[algorithm]
    state = config.get_state()
    for plain in (state["_trial"], state["env_config"]):
        assert json.loads(json.dumps(plain)) == plain
    again = type(config).from_state(state)
    assert again.trial == config.trial
    assert again.trial.learning_rates.keys() == set(config.policies)
    assert EnvironmentConfig.of(again.env_config) == EnvironmentConfig.of(config.env_config)
    of_the_other = {"ppo": {"sac": configs["sac"].trial.sac}, "sac": {"learner_threads": 2}}[algorithm]
    with pytest.raises(ConfigError, match="not read by"):
        config.copy(copy_frozen=False).training(**of_the_other).validate()


def test_one_of_sacs_numbers_is_changed_and_the_others_stay(configs: dict[str, Any]) -> None:
    config = configs["sac"].copy(copy_frozen=False)
    before = config.trial.sac
    config.training(sac={"tau": 0.5, "min_std_by_regime": {"bull": 0.7}}).validate()
    min_std = before.min_std_by_regime.model_copy(update={"bull": 0.7})
    assert config.trial.sac == before.model_copy(update={"tau": 0.5, "min_std_by_regime": min_std})
    assert configs["sac"].trial.sac == before


def test_the_seed_is_that_of_the_environments_too() -> None:
    config = config_of("ppo").debugging(seed=7)
    config.validate()
    assert config.env_config["seed"] == 7


def changed(config: Any, *overrides: str) -> Any:
    """A copy whose environments have other settings."""
    copy = config.copy(copy_frozen=False)
    tree = copy.env_config["settings"]
    settings = Settings.model_validate(tree)
    other = settings_with(settings, dict(one.split("=") for one in overrides))
    return copy.environment(env_config={**copy.env_config, "settings": other.model_dump(mode="json")})


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
@pytest.mark.parametrize("section", [*READ_OF_COPIED, "reference"])
def test_settings_of_environments_that_they_do_not_read_are_refused_when_they_change(
    configs: dict[str, Any], section: str, algorithm: str
) -> None:
    others = {
        "recipe": "recipe.learning_rate=0.002", "sac": "sac.tau=0.02", "networks": "networks.activation=relu",
        "learner": "learner.precision=bfloat16", "training": "training.gamma=0.9", "resources": "resources.runners=4",
        "meta_controller": "meta_controller.learning_rate=0.1", "reference": "reference.kl_coeff.meta=0.5",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=rf"env_config\['settings'\]\['{section}'\] has changed"):
        changed(configs[algorithm], others[section]).validate()


def test_settings_that_environments_read_take_effect(configs: dict[str, Any]) -> None:
    changed(configs["ppo"], "risk.gross_budget=0.5", "rewards.cost_factor=0.5", "resources.env_retries=5").validate()
    tree = configs["ppo"].env_config["settings"]
    rewards = [tree["recipe"]["rewards"][0]] * 3
    other = {**tree, "recipe": {**tree["recipe"], "rewards": rewards}}
    assert rewards != tree["recipe"]["rewards"]
    copy = configs["ppo"].copy(copy_frozen=False)
    copy.environment(env_config={**copy.env_config, "settings": other}).validate()


def test_the_learning_rate_says_what_modules_have() -> None:
    config = config_of("ppo", "recipe.learning_rate=1e-3", "recipe.phase_learning_rate_fracs=[1, 1, 0.5]")
    assert config.lr == 5e-4
    assert set(config.trial.learning_rates.values()) == {5e-4}
    config = config_of("sac", "recipe.phase_learning_rate_fracs=[1, 1, 0.5]")
    rates = {kind: getattr(config, f"{kind}_lr") for kind in ("actor", "critic", "alpha")}
    assert all(own == ModuleSACRates(**rates) for own in config.trial.learning_rates.values())
