"""The explanation of a run: a page and pictures of what its policies did and what their decisions rest on.

`collect` gathers arrays in one rollout, the panels turn them into figures, `page` and `pictures` write them.
"""
