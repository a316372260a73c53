"""The batched environment runner: what it samples, and its state."""
