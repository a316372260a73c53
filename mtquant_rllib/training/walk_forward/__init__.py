"""Walk-forward tests: desks trained on what came before each stretch of time, judged on it, and stitched together."""
