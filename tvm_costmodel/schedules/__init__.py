"""Learned cost of schedule candidates, for TVM's searches that tune one operator at a time.

`ranker` holds the model and needs NumPy alone; `autotvm` and `auto_scheduler` are the cost models
that TVM's tuners of these names take, and load where TVM has them.
"""
