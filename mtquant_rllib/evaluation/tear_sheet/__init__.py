"""The tear sheet of one evaluation: what a portfolio manager asks of a book, as one page."""
