"""The program that reads one ``.pt2`` file in a process of its own (see `read_pt2`).

It answers with the graph's JSON, a line feed, and the Relax module's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm_costmodel.isolation import answer_request


def prepare() -> None:
    """Imports torch and TVM, and everything that reading a program imports late."""
    import torch
    import tvm.relax.frontend.torch  # noqa: F401

    import tvm_costmodel.frontends.relax.bind_shapes
    import tvm_costmodel.frontends.relax.export
    import tvm_costmodel.frontends.relax.negative_indices
    import tvm_costmodel.frontends.torch_export

    del torch, tvm_costmodel


def answer(request: Mapping[str, Any]) -> bytes:
    """Reads the file that the request names, with the shapes that it sets."""
    import tvm

    from tvm_costmodel.frontends.relax.export import from_relax
    from tvm_costmodel.frontends.torch_export import relax_of_file

    module = relax_of_file(request["path"], request["label"], request["shapes"])
    graph = from_relax(module).to_json()
    text = str(tvm.ir.save_json(module)) if request["module"] else ""
    return graph.encode() + b"\n" + text.encode()


if __name__ == "__main__":
    answer_request(answer, prepare)
