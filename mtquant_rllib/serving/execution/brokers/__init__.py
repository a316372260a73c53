"""Brokers: what a desk asks of one, one that is simulated, one that is reached through files, and how orders are shared
among several."""
