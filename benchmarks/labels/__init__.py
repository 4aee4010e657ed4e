"""Noise of labels, and what a killed profiling run loses."""
