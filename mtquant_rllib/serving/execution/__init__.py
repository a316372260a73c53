"""Works a decision's orders at brokers: order states, the journal that the trading state is rebuilt from, reconciliation."""
