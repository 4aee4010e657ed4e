"""Latency of candidates, by any predictor."""
