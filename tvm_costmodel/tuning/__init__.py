"""Graph-level tuning: decisions for a network, and the search for the best with a predictor."""
