"""Graph-level decisions and the candidates that they span."""
