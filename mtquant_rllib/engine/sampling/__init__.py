"""Environments stepped as arrays: RLlib's environment runner, what it samples, and where it stands."""
