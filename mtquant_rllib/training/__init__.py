"""Runs: algorithms and their phases, and in rooms of their own what a run keeps (`records`), what it tells
(`reporting`), the Ray session it trains in (`session`) and looking at runs without training them (`inspection`)."""
