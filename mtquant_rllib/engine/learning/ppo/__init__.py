"""PPO: loss, coefficients, a stack's update, and RLlib's learner around it."""
