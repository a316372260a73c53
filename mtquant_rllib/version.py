"""The version of this package, the one place that has it."""

VERSION = "0.1.0"
