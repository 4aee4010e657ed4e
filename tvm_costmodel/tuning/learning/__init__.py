"""Learning from measured variants of networks."""
