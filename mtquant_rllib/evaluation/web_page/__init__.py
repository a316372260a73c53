"""A self-contained web page of interactive panels: what the explanation of a run and the comparison of runs share."""
