"""Accuracy and latency of NAS cells."""
