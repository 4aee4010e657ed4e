"""Measuring real latency: protocol, runners, store, workloads."""
