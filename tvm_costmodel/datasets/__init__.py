"""Readers of published latency and accuracy data."""
