"""What environments play on: a market's bars, features and splits, prepared once as files that every process maps."""
