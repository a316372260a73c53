"""What training tells while it goes on: curves, progress lines, trackers."""
