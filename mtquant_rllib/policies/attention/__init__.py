"""The regime-aware attention network: its layers, losses, costs and fallbacks."""
