"""The risk report of one evaluation: how near its limits a book lived, what the rules changed, and whether its VaR
forecast was true."""
