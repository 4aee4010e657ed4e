"""Relax passes that carry out graph-level decisions."""
