"""Sweeps: trials of declared settings, each a few runs with seeds of their own, side by side, judged on validation."""
