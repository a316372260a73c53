"""Who decides what: the groups of agents, one row each, and what is made of their actions."""
