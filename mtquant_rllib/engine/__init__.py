"""What the desk adds to RLlib: environments stepped as arrays, columns in place of episodes, a stacked learner."""
