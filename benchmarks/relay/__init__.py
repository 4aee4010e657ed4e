"""Relay: export, labels, tuning."""
