"""The networks as RLlib sees them: states, inference-only copies, clipping, the first minibatch of a real learner."""

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.universe import META, Sharing

MODULES = ["meta_controller", "forex_specialist", "EURUSD"]


@pytest.fixture(scope="module")
def specs(settings, widths):
    return module_specs(settings)


def observations(spec, rows=5):
    return {Columns.OBS: torch.randn(rows, *spec.observation_space.shape)}


def inference_copy(spec):
    return type(spec)(**{**vars(spec), "inference_only": True, "model_config_dict": None}).build()


def test_there_is_one_module_per_policy(specs, settings):
    assert tuple(specs.rl_module_specs) == settings.universe.policies()
    assert set(specs.build().keys()) == set(settings.universe.agent_ids)


def test_a_phase_can_keep_part_of_the_desk(settings, widths):
    part = module_specs(settings, only=["forex_specialist", "EURUSD"])
    assert list(part.rl_module_specs) == ["forex_specialist", "EURUSD"]
    with pytest.raises(KeyError, match="no modules BTCUSD"):
        module_specs(settings, only=["BTCUSD"])


@pytest.mark.parametrize("name", MODULES)
def test_a_state_goes_into_another_module_and_comes_back_unchanged(specs, name):
    spec = specs.rl_module_specs[name]
    first, second = spec.build(), spec.build()
    batch = observations(spec)
    assert not torch.equal(first.compute_values(batch), second.compute_values(batch))
    second.set_state(first.get_state())
    for key, array in first.get_state().items():
        np.testing.assert_array_equal(array, second.get_state()[key])
    assert torch.equal(first.compute_values(batch), second.compute_values(batch))


@pytest.mark.parametrize("name", MODULES)
def test_an_inference_only_module_has_no_value_network_and_acts_the_same(specs, name):
    spec = specs.rl_module_specs[name]
    full, small = spec.build(), inference_copy(spec)
    assert not hasattr(small, "value")
    batch = observations(spec)
    for state in (full.get_state(), full.get_state(inference_only=True)):
        small.set_state(state)
        assert torch.equal(
            full.forward_inference(batch)[Columns.ACTION_DIST_INPUTS],
            small.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS],
        )
    assert set(small.get_state()) == {key for key in full.get_state() if key.startswith("policy.")}


def test_an_inference_only_state_leaves_a_full_modules_value_network_alone(specs):
    first, second = (specs.rl_module_specs["EURUSD"].build() for _ in range(2))
    own_value = second.get_state()["value.head.weight"].copy()
    second.set_state(first.get_state(inference_only=True))
    np.testing.assert_array_equal(second.get_state()["value.head.weight"], own_value)
    np.testing.assert_array_equal(second.get_state()["policy.head.weight"], first.get_state()["policy.head.weight"])


def test_a_state_that_does_not_fit_is_refused(specs):
    module = specs.rl_module_specs["EURUSD"].build()
    state = module.get_state()
    missing = {key: array for key, array in state.items() if key != "value.head.weight"}
    with pytest.raises(RunError, match=r"value\.head\.weight"):
        module.set_state(missing)
    with pytest.raises(RunError, match="surplus"):
        module.set_state({**state, "surplus": np.zeros(1, np.float32)})
    with pytest.raises(RunError, match=r"policy\.rho"):
        module.set_state({key: array for key, array in state.items() if key.startswith("value.")})
    with pytest.raises(RunError, match="size mismatch"):
        module.set_state(specs.rl_module_specs["forex_specialist"].build().get_state() | {"policy.rho": np.zeros(7)})


@pytest.mark.parametrize("name", MODULES)
def test_the_deterministic_action_is_the_mean(specs, name):
    spec = specs.rl_module_specs[name]
    module = spec.build()
    batch = observations(spec)
    inputs = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    action = module.get_inference_action_dist_cls().from_logits(inputs).to_deterministic().sample()
    assert action.shape == (5, *spec.action_space.shape)
    torch.testing.assert_close(action, module.policy.mean(batch[Columns.OBS]), rtol=0, atol=0)


def test_values_for_returns_are_exact_while_the_loss_sees_dropout(specs):
    spec = specs.rl_module_specs[META]
    module = spec.build()
    torch.nn.init.normal_(module.value.head.weight)
    batch = observations(spec)
    first, second = module.forward_train(batch), module.forward_train(batch)
    assert module.training
    assert torch.equal(first[Columns.ACTION_DIST_INPUTS], second[Columns.ACTION_DIST_INPUTS])
    assert not torch.equal(first[Columns.EMBEDDINGS], second[Columns.EMBEDDINGS])
    assert torch.equal(module.compute_values(batch), module.compute_values(batch))
    in_loss = module.compute_values(batch, embeddings=first[Columns.EMBEDDINGS])
    assert in_loss.shape == (5,)
    assert not torch.equal(in_loss, module.compute_values(batch))


class Chatter(MultiAgentEnv):
    """Random observations for the agents of a desk, all in each step; remembers the actions it was given."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = self.agents = list(config["spaces"])
        self.observation_spaces = {agent: spaces[0] for agent, spaces in config["spaces"].items()}
        self.action_spaces = {agent: spaces[1] for agent, spaces in config["spaces"].items()}
        self.random, self.clock, self.received = np.random.default_rng(0), 0, []

    def _observe(self):
        return {agent: self.random.standard_normal(space.shape, np.float32)
                for agent, space in self.observation_spaces.items()}  # fmt: skip

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        self.received.append([])
        return self._observe(), {}

    def step(self, actions):
        self.clock += 1
        self.received[-1].append(actions)
        rewards = {agent: float(action.sum()) for agent, action in actions.items()}
        done = self.clock >= 16
        return self._observe(), rewards, {"__all__": False}, {"__all__": done}, {}


class RecordingLearner(PPOTorchLearner):
    """Keeps |ratio - 1| of every module's first minibatch."""

    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out):
        self.ratios = getattr(self, "ratios", {})
        if module_id not in self.ratios:
            distribution = self.module[module_id].unwrapped().get_train_action_dist_cls()
            now = distribution.from_logits(fwd_out[Columns.ACTION_DIST_INPUTS]).logp(batch[Columns.ACTIONS])
            self.ratios[module_id] = (now - batch[Columns.ACTION_LOGP]).exp().sub(1).abs().max().item()
        return super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)


def ppo(settings, widths, **environment):
    universe = settings.universe
    specs = module_specs(settings)
    sharing = settings.networks.sharing
    spaces = {}
    for agent in universe.agent_ids:
        spec = specs.rl_module_specs[universe.policy_of(agent, sharing)]
        spaces[agent] = (spec.observation_space, spec.action_space)
    return (
        PPOConfig()
        .environment(Chatter, env_config={"spaces": spaces}, **environment)
        .env_runners(num_env_runners=0)
        .multi_agent(
            policies=set(universe.policies(sharing)),
            policy_mapping_fn=lambda agent, episode, **kwargs: universe.policy_of(agent, sharing),
        )
        .rl_module(rl_module_spec=specs)
        .training(minibatch_size=16, num_epochs=1)
    )


def learned_once(settings, widths):
    """A stock learner after one update, and the state of the meta-controller before and after it."""
    config = ppo(settings, widths, normalize_actions=False, clip_actions=True)
    runner = MultiAgentEnvRunner(config=config)
    config.learners(num_learners=0, learner_class=RecordingLearner)
    learner = config.build_learner(env=runner.env.unwrapped.envs[0])
    for name, module in learner.module._rl_modules.items():
        runner.module[name].set_state(module.get_state(inference_only=True))
    episodes = runner.sample(num_episodes=2)
    before = learner.module[META].get_state()
    learner.update(episodes=episodes, minibatch_size=16, num_epochs=1, shuffle_batch_per_epoch=True)
    return learner, before, learner.module[META].get_state()


@pytest.mark.slow
@pytest.mark.parametrize("sharing", list(Sharing))
def test_the_first_minibatch_of_the_stock_learner_has_ratios_of_one(sharing, widths):
    settings = Settings.load(overrides=[f"networks.sharing={sharing}"])
    learner, before, after = learned_once(settings, widths)
    assert set(learner.ratios) == set(settings.universe.policies(sharing))
    assert max(learner.ratios.values()) < 1e-5
    assert all((before[key] != after[key]).any() for key in ("policy.head.weight", "value.head.weight", "policy.rho"))


@pytest.mark.slow
@pytest.mark.parametrize("value", ["attention", "plain"])
def test_an_attention_meta_controller_learns_with_first_ratios_of_one(value, widths):
    settings = Settings.load(overrides=["networks.names.meta=attention", f"networks.attention.value={value}"])
    learner, before, after = learned_once(settings, widths)
    assert learner.ratios[META] < 1e-5
    unmoved = [key for key in before if (before[key] == after[key]).all()]
    assert unmoved == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "tolerance"),
    [({"normalize_actions": False, "clip_actions": True}, 0.0), ({"normalize_actions": True}, 2e-7)],
)
def test_the_environment_gets_the_clipped_raw_sample(environment, tolerance, settings, widths):
    runner = MultiAgentEnvRunner(config=ppo(settings, widths, **environment))
    (episode,) = runner.sample(num_episodes=1)
    played = runner.env.unwrapped.envs[0].unwrapped.received
    sent = np.stack([actions["EURUSD"] for actions in next(steps for steps in played if len(steps) == len(episode))])
    raw = np.stack(list(episode.agent_episodes["EURUSD"].actions))
    assert (np.abs(raw) > 1).any()
    np.testing.assert_allclose(sent, np.clip(raw, -1, 1), rtol=0, atol=tolerance)
