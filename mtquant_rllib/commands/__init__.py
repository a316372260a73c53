"""Families of commands, a file each. Like `cli` they may import everything, and wait with it until they are run."""
