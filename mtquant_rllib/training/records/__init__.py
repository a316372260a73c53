"""What a run keeps on disk: its manifest, module states and checkpoints, and the rules by which they are written."""
