"""Checks for knowledge of the future, each of one kind of leak."""
