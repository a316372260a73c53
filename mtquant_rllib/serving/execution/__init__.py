"""Works orders at brokers: order states, the journal that rebuilds the trading state, and reconciliation."""
