"""Tiles, packing and loop orders, chosen before anything is written."""
