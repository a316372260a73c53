"""SAC: losses, a stack's gradient step, and RLlib's learner around it."""
