"""The state of B environments as arrays, each field with its meaning."""
