"""Predictors on nn-Meter's bench of 20,698 networks."""
