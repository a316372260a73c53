"""Repair of a batch of books: the measures that rules limit, and the rules in their order."""
