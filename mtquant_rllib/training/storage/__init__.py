"""Where runs lie: retries, one process at a time, and copies of runs in object stores."""
