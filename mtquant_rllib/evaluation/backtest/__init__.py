"""Playing a split from end to end, and whom a desk is compared with: rules, oracles, the best linear forecast."""
