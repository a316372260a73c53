"""Twelve RLlib policies trade eight instruments as one desk, with risk having the last word."""

__version__ = "0.1.0"
