"""Network families that make labels: published designs, sampled over their parameters."""

from tvm_costmodel.profiling.workloads.family import SIZES, Family
from tvm_costmodel.profiling.workloads.suites import FAMILIES, sample_suite, suite_names

__all__ = ["FAMILIES", "SIZES", "Family", "sample_suite", "suite_names"]
