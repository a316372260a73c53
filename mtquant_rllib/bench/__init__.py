"""Benchmarks as commands: `mtquant bench ...`. Figures for people, never timed tests."""
