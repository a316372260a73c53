"""Market regimes in an evaluation: their history, the classifier that guesses them, and performance in each."""
