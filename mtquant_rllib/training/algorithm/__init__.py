"""RLlib's PPO and SAC with the desk's runners, learners and validation, and their configurations."""
