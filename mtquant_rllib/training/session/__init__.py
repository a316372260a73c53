"""The Ray session that a run trains in, and the signals that end it."""
