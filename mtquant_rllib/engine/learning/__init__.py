"""Learners on columns: modules of one shape side by side, their losses and their gradients."""
