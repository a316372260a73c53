"""How far figures can be trusted, one file a question; every statistic stands once, with its source."""
