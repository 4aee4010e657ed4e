"""Exports networks through Relay, for the tests of the other environment; run in Relay's.

python -m tests.relay.export_networks FOLDER NAME ...   # ONNX networks
python -m tests.relay.export_networks FOLDER            # one network of each workload family
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.networks import onnx_network_path
from tvm_costmodel.frontends.relay.export import from_relay
from tvm_costmodel.frontends.relay.model_files import onnx_to_relay
from tvm_costmodel.profiling.sources import WorkloadSource
from tvm_costmodel.profiling.workloads import FAMILIES, sample_suite


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    for name in names:
        graph = from_relay(onnx_to_relay(onnx_network_path(name)))
        (folder / f"{name}.json").write_text(graph.to_json())
    for family, params in [] if names else sample_suite("quick", len(FAMILIES)):
        _, graph = WorkloadSource(family, params, "relay").load()
        (folder / f"{family}.json").write_text(graph.to_json())


if __name__ == "__main__":
    main()
