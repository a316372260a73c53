"""Closed-form gradients: what autograd would give for `ppo_loss`, `sac_loss`, the plain networks and the critics,
faster.

The losses and networks are defined elsewhere, as torch functions and modules; tests hold everything here to
autograd's gradients of them. On networks this small autograd's own work, a node and a few allocations for each of
some hundred operations, takes as long as the arithmetic. `policies.has_fast_path` says which networks run here;
others run by autograd (`learning.backprop`).
"""
