"""The line that heads a table of results."""

from __future__ import annotations

from benchmarks.results_file import machine_name
from tvm_costmodel.profiling.measuring.environment import describe

FACTS = {
    "cpu": {"model name": "AMD EPYC (TM) 9", "cpu family": "26", "model": "2"},
    "cores": 2,
    "label_cores": [],
    "kernel": "6.1",
    "python": "3.11.7",
    "packages": {"apache-tvm": "0.27", "tvm-costmodel": ""},
}


def test_describe_says_what_the_facts_hold_and_nothing_else() -> None:
    line = (
        "AMD EPYC (TM) 9 (family 26, model 2), 2 cores, Linux 6.1, Python 3.11.7, apache-tvm 0.27"
    )
    assert describe(FACTS) == line
    measured = describe(FACTS | {"label_cores": [0, 1], "llvm": "22"})
    assert "2 cores, labels on core 0,1, Linux" in measured
    assert measured.endswith("apache-tvm 0.27, LLVM 22")
    assert describe({}).startswith("unknown processor (family ?")


def test_machine_name_is_safe_in_a_file_name() -> None:
    zen5 = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"}
    assert machine_name({"cpu": zen5 | {"model name": "AMD EPYC"}}) == "amd-zen5"
    assert machine_name({"cpu": {"model name": "AMD EPYC (TM) 9"}}) == "amd-epyc-tm-9"
    assert machine_name({}) == "unknown"
