"""Graphs annotated with a candidate's decisions, as the compilers will build them."""
