"""Files of bars and macro series as people have them, read into checked series of one axis."""
