"""Predicting a new device from few measurements."""
