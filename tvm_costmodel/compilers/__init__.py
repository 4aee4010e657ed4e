"""Compiler back ends."""
