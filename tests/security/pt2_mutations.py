"""Mutated archives of ``torch.export.save``, read without starting torch anew for each."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from tvm_costmodel.frontends import pt2_program, torch_export
from tvm_costmodel.isolation import Limits, in_fork

PROGRAM = "models/model.json"
METADATA = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack")
ODD_MEMBERS = ("data/weights/weight_99", "data/weights/x.so", "models/b.json", "../../x", "extra/a")
ODD_TEXTS = (
    "Symbol('s99', positive=True)", "2*s0", "s0**64", "1/0", "Mod(s0, 0)", "Max()", "Integer(1)",
    "torch.ops.aten.conv2d.default", "torch.ops.aten.nosuch.default", "x: int",
    "torch.ops.aten.relu_.default",
    "torch.ops.aten.ones.default", "torch.ops.aten.matmul.default", "torch.sym_sum", "x",
    "conv.weight",
)  # fmt: skip


@lru_cache(maxsize=1)
def exported() -> bytes:
    """A small program with a dynamic batch, as ``torch.export.save`` writes it."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(4)
            self.linear = torch.nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
            return self.linear(y), y.reshape(x.shape[0], 2, 2)

    batch = torch.export.Dim("batch", min=1, max=8)
    example = (torch.zeros(2, 3, 8, 8),)
    program = torch.export.export(Network().eval(), example, dynamic_shapes={"x": {0: batch}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def warm() -> None:
    """Imports torch and reads the whole program once; forks of this process need not."""
    pt2_program.prepare()
    exported()


def read_in_forks() -> None:
    """Lets this process read programs in forks of itself, with the limits of a fresh one."""

    def in_program(module: str, request: Mapping[str, Any], limits: Limits) -> bytes:
        assert module == pt2_program.__name__
        return in_fork(lambda: pt2_program.answer(request), limits)

    torch_export.in_program = in_program


def mutated(
    rng: random.Random,
    change_values: Callable[..., str],
    change_bytes: Callable[[bytes, random.Random], bytes],
) -> bytes:
    """The archive with its bytes, its members or fields of its JSON changed.

    Args:
        rng: Chooses.
        change_values: Gives JSON with values changed: (value, rng, odd values) -> text.
        change_bytes: Gives changed bytes.
    """
    if rng.random() < 0.1:
        return change_bytes(exported(), rng)
    with zipfile.ZipFile(io.BytesIO(exported())) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(members)).partition("/")[0]
    if rng.random() < 0.25:
        _change_members(members, root, rng, change_bytes)
    else:
        names = [name for name in members if name.endswith(".json")]
        name = f"{root}/{PROGRAM}" if rng.random() < 0.75 else rng.choice(names)
        members[name] = _changed_json(members[name], rng, change_values)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((0, 8))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _change_members(
    members: dict[str, bytes], root: str, rng: random.Random, change_bytes: Callable[..., bytes]
) -> None:
    name = rng.choice(list(members))
    action = rng.randrange(5)
    if action == 0:
        del members[name]
    elif action == 1:
        members[f"{root}/{rng.choice(ODD_MEMBERS)}"] = members[name]
    elif action == 2:
        members[name] = members[rng.choice(list(members))]
    elif action == 3:
        members[name] = bytes(rng.choice((0, 1, 1 << 20)))
    else:
        members[name] = change_bytes(members[name], rng)


def _changed_json(content: bytes, rng: random.Random, change_values: Callable[..., str]) -> bytes:
    """JSON with odd values, or with numbers and names that fit their places but not each other."""
    value = json.loads(content)
    places = [place for place in _leaves(value) if place[1] not in METADATA]
    if places and rng.random() < 0.6:
        numbers = (-1, 0, 1, 2, 3, 9, 64, 1 << 20, 1 << 31, 1 << 62)
        for _ in range(rng.randint(1, 3)):
            container, key = rng.choice(places)
            old = container[key]
            container[key] = rng.choice(ODD_TEXTS if isinstance(old, str) else numbers)
            if isinstance(old, bool):
                container[key] = not old
        return json.dumps(value).encode()
    return change_values(value, rng).encode("utf-8", "surrogatepass")


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every text and number in JSON."""
    leaves, waiting = [], [value]
    while waiting:
        container = waiting.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, item in items:
            if isinstance(item, dict | list):
                waiting.append(item)
            elif item is not None:
                leaves.append((container, key))
    return leaves
