"""The comparison of runs: what each did on the same bars, how sure a difference is, and in which settings they differ.

`book` reads what an evaluation wrote, `comparison` sets the runs beside each other, `table` writes rows, the panels
turn them into figures and `page` into one self-contained file.
"""
