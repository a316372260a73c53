"""What would keep a run from training here or on a cluster, found before it starts, each with its cure."""
