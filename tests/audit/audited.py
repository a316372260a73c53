"""How much the tests of the audit look at."""

FEW = ["evaluation.audit.bars=2", "evaluation.audit.played_bars=12"]
