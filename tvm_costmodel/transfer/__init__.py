"""Predicting on a new device or processor from few measurements."""
