"""NAS cells: building them, their tokens, and predictors of their accuracy and latency."""
