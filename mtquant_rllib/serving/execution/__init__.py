"""Orders of decisions at brokers: their states, the journal that everything is known again from, and reconciliation."""
