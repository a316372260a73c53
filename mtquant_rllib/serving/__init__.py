"""From policies to orders: a decision for an account at every close, without Ray."""
