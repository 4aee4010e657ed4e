"""Graph-level tuning: what can be decided for a network, and what the predictor sees of it."""
