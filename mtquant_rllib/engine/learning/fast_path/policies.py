"""Policies and value networks of a stack, forward and backward by the chain rule, and the predicate that chooses it.

Shape suffixes as in `layers`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.fast_path.layers import Layer, ParameterViews, PerActionLayer, SplitLayer, Trunk
from mtquant_rllib.engine.learning.objective import Objective
from mtquant_rllib.engine.learning.stacks import ModuleStack
from mtquant_rllib.policies.elementwise import Tanh, tanh_backward_, tanh_of_double_
from mtquant_rllib.policies.networks import (
    Dense,
    FlatPolicy,
    GaussianPolicy,
    PerActionLinear,
    ReferenceMean,
    SpecialistNetwork,
    SpecialistShape,
    ValueNetwork,
)


def has_fast_path(device: torch.device, policy: Any, value: Any = None) -> bool:
    """Whether a policy, and a value network where one is given, can run by the classes of this file: plain networks
    with tanh on a CPU, without auxiliary losses."""
    plain = type(policy).mean in (FlatPolicy.mean, SpecialistNetwork.mean) and not policy.has_auxiliary_losses
    plain &= value is None or type(value) is ValueNetwork
    leaves = [module for network in (policy, value) if network is not None for module in network.modules()]
    known = all(isinstance(module, (Dense, Tanh, ReferenceMean)) for module in leaves if not list(module.children()))
    return plain and known and device.type == "cpu"


class FlatMean:
    """`FlatPolicy.mean`."""

    def __init__(self, policy: GaussianPolicy, views: ParameterViews) -> None:
        self._trunk = Trunk(views, "policy.trunk", policy.trunk)
        self._head = Layer(views, "policy.head")
        self._skip: Layer | PerActionLayer | None = None
        if isinstance(policy.skip, PerActionLinear):
            self._skip = PerActionLayer(views, "policy.skip", policy.skip)
        elif policy.skip is not None:
            self._skip = Layer(views, "policy.skip")

    def forward(self, obs_SBF: Tensor) -> Tensor:
        self._obs = obs_SBF
        mean_SBA = self._head.forward(self._trunk.forward(obs_SBF))
        if isinstance(self._skip, PerActionLayer):
            return mean_SBA.add_(self._skip.forward(obs_SBF))
        return mean_SBA if self._skip is None else mean_SBA.baddbmm_(obs_SBF, self._skip.weight.mT)

    def backward(self, g_SBA: Tensor) -> None:
        if self._skip is not None:
            self._skip.store_gradients(g_SBA, self._obs)
        self._head.store_gradients(g_SBA, self._trunk.last)
        self._trunk.backward(self._head.input_gradient(g_SBA))


class SpecialistMean:
    """`SpecialistNetwork.mean`."""

    def __init__(self, policy: SpecialistNetwork, views: ParameterViews) -> None:
        assert isinstance(policy.shape, SpecialistShape)
        self._policy = policy
        self._splits, self._n = policy.splits, policy.shape.n_instruments
        self._encoder = Trunk(views, "policy.encoder", policy.encoder)
        self._reader = SplitLayer(views, "policy.reader", policy.shape.block)
        self._logits = Layer(views, "policy.logits")
        self._confidence_trunk = Trunk(views, "policy.confidence_trunk", policy.confidence_trunk)
        self._confidence = Layer(views, "policy.confidence")
        self._skips: tuple[SplitLayer, Layer] | None = None
        if policy.skip_logits is not None:
            self._skips = (
                SplitLayer(views, "policy.skip_logits", policy.shape.block),
                Layer(views, "policy.skip_confidence"),
            )

    def forward(self, obs_SBF: Tensor) -> Tensor:
        domain, blocks, state = obs_SBF.split(self._splits, dim=-1)
        n_networks, n_rows = obs_SBF.shape[:2]
        self._blocks_SMK = blocks.reshape(n_networks, n_rows * self._n, -1)
        self._context = torch.cat((domain, state), dim=-1)
        encoding = self._encoder.forward(self._context)
        twice = self._reader.forward(self._blocks_SMK, encoding).mul_(2.0)
        self._hidden_SMH = tanh_of_double_(twice)
        logits_SM3 = self._logits.forward(self._hidden_SMH)
        hidden_SBNH = self._hidden_SMH.unflatten(1, (n_rows, self._n))
        pooled = torch.cat((encoding, self._policy.pooled(hidden_SBNH)), dim=-1)
        confidence = self._confidence.forward(self._confidence_trunk.forward(pooled))
        if self._skips is not None:
            skip_logits, skip_confidence = self._skips
            logits_SM3 += skip_logits.forward(self._blocks_SMK, self._context)
            confidence.baddbmm_(self._context, skip_confidence.weight.mT)
        return torch.cat((logits_SM3.view(n_networks, n_rows, -1), confidence), dim=-1)

    def backward(self, g_SBA: Tensor) -> None:
        g_logits = g_SBA[..., :-1].reshape(len(g_SBA), -1, self._logits.weight.shape[1])
        g_confidence = g_SBA[..., -1:].contiguous()
        if self._skips is not None:
            skip_logits, skip_confidence = self._skips
            skip_logits.store_gradients(g_logits, self._blocks_SMK, self._context)
            skip_confidence.store_gradients(g_confidence, self._context)
        self._confidence.store_gradients(g_confidence, self._confidence_trunk.last)
        g_pooled = self._confidence_trunk.input_gradient(
            self._confidence_trunk.backward(g_confidence * self._confidence.weight)
        )
        width = self._encoder.last.shape[-1]
        self._logits.store_gradients(g_logits, self._hidden_SMH)
        g_hidden_SMH = self._logits.input_gradient(g_logits)
        g_mean = g_pooled[..., width:].unsqueeze(2)
        weights = self._policy.instrument_weights
        g_mean = g_mean / self._n if weights is None else g_mean * weights[:, None, :, None]
        g_hidden_SMH.unflatten(1, (-1, self._n)).add_(g_mean)
        g_read = tanh_backward_(g_hidden_SMH, self._hidden_SMH)
        g_encoding = self._reader.store_gradients(g_read, self._blocks_SMK, self._encoder.last)
        self._encoder.backward(torch.bmm(g_encoding, self._reader.shared).add_(g_pooled[..., :width]))


class ManualPolicyBackprop:
    """The policies of a stack."""

    def __init__(self, policy: Any, views: ParameterViews) -> None:
        self._rho, self._rho_gradient = views["policy.rho"]
        self._log_min_std = policy.log_min_std
        self._reference = policy.reference
        self._mean: FlatMean | SpecialistMean
        if isinstance(policy, SpecialistNetwork):
            self._mean = SpecialistMean(policy, views)
        else:
            self._mean = FlatMean(policy, views)

    @torch.no_grad()
    def forward(self, obs_SBF: Tensor, *, learns: bool = True) -> tuple[Tensor, Tensor]:
        """Mean (S, B, A) and log deviation (S, 1, A)."""
        log_std_S1A = torch.logaddexp(self._rho, self._rho.new_tensor(self._log_min_std)).unsqueeze(1)
        mean_SBA = self._mean.forward(obs_SBF)
        if self._reference is not None:
            mean_SBA.add_(self._reference(obs_SBF))
        self._outputs = mean_SBA, log_std_S1A
        return self._outputs

    def backward(self, objective: Objective, auxiliary_loss: Tensor | None = None) -> None:
        """Write the gradient rows of the objective at the outputs of the last `forward`."""
        assert auxiliary_loss is None
        self.store_gradients(*objective.gradients(*self._outputs))

    @torch.no_grad()
    def store_gradients(self, mean_SBA: Tensor, log_std_SBA: Tensor) -> None:
        """Write the gradient rows from the gradients by the outputs of the last `forward`."""
        self._mean.backward(mean_SBA)
        torch.mul(log_std_SBA.sum(1), torch.sigmoid(self._rho - self._log_min_std), out=self._rho_gradient)


class ManualBackprop:
    """The policies and value networks of a stack (`backprop.Backprop`)."""

    has_own_generator = True

    def __init__(self, stack: ModuleStack) -> None:
        self.auxiliary_losses: dict[str, Tensor] = {}
        self._generator = torch.Generator()
        value, views = stack.network.value, ParameterViews(stack)
        self._policy = ManualPolicyBackprop(stack.network.policy, views)
        assert isinstance(value, ValueNetwork)
        self._value_trunk = Trunk(views, "value.trunk", value.trunk, value.dropout, self._generator)
        self._value_head = Layer(views, "value.head")

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def forward(
        self, obs_SBF: Tensor, labels_SB1: Tensor | None = None, fraction: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert labels_SB1 is None
        mean_SBA, log_std_S1A = self._policy.forward(obs_SBF)
        value_SB1 = self._value_head.forward(self._value_trunk.forward(obs_SBF))
        self._outputs = mean_SBA, log_std_S1A, value_SB1.squeeze(-1)
        return self._outputs

    @torch.no_grad()
    def backward(self, objective: Objective) -> None:
        by_mean, by_log_std, by_value = objective.gradients(*self._outputs)
        self._policy.store_gradients(by_mean, by_log_std)
        value_SB1 = by_value.unsqueeze(-1)
        self._value_head.store_gradients(value_SB1, self._value_trunk.last)
        self._value_trunk.backward(value_SB1 * self._value_head.weight)
