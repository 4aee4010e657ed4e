"""``devices``: lists the devices that can be measured on."""

from __future__ import annotations

import argparse

from tvm_costmodel.cli.output import Output, table

HELP = "list the devices that ship with the package, and which one this machine is"


def configure(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(args: argparse.Namespace) -> Output:
    """Lists the devices."""
    from tvm_costmodel.profiling.devices import list_devices, resolve_device

    here = resolve_device("cpu").name
    devices = list_devices()
    rows = [
        ("*" if d.name == here else "", d.name, d.runner, d.threads, d.description) for d in devices
    ]
    text = table(rows, ("", "device", "runner", "threads", "description"))
    text += "\n* is this machine (--device cpu). Boards need --tracker HOST:PORT; a device of your "
    text += "own is a .toml file: --device my-board.toml"
    fields = {"this_machine": here, "devices": [d.to_dict() for d in devices]}
    return Output(fields, text)
