"""What agents see at a close: the arrays of each level, their spaces, and their reconstruction from stored rows."""
