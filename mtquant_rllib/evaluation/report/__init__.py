"""The report of an evaluation: its figures, its tables on screen and disk, its picture."""
