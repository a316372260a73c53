"""Runs on disk: what there is, whether it is whole, tags, and what may go (`mtquant runs`)."""
