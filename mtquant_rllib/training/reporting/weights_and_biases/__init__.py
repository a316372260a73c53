"""Weights & Biases as a copy of what stands in a run's folder.

The record of a run is its own: the manifest, `curves/`, `policies/`, `evaluation/`. A process beside the training reads
it (`follower`), compares it with what W&B's own files say was logged (`transaction_log`) and logs what is missing. So a
run that was killed, restarted or never watched comes out whole, with nothing twice, and nothing that W&B does reaches
the training.
"""
