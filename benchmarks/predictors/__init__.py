"""Predictors on the project's own labels, and their speed."""
