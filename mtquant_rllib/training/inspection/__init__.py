"""Looking at runs without training them: overview, verification, pruning, export."""
