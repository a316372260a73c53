"""What the desk adds to RLlib: a runner that steps environments as arrays, columns in place of episodes, a stacked learner."""
