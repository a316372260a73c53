"""What makes results worth believing: nothing knows the future, controls come out as they must, verdicts rarely err."""
