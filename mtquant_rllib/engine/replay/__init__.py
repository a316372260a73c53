"""Replay of what was sampled, for learning off policy."""
