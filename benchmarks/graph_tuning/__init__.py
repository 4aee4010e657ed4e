"""Graph-level tuning against other engines and other search strategies."""
