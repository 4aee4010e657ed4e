"""Archives of ``torch.export.save``, checked member by member and written anew before torch reads.

torch's reader unpickles, evaluates expressions, loads bundled libraries and compiles names of the
file as Python. `clean_archive` therefore keeps only members and fields that a network needs, each
checked, in a fresh archive: weights as raw bytes, and the program's JSON without metadata.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tvm_costmodel.bounded_reading import parse_object
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.symbolic_sizes import is_size

MAX_MEMBERS = 20_000
MAX_PROGRAM_BYTES = 256 << 20
MAX_BYTES = 8 << 30
_LARGEST_RATIO = 300
_SLACK = 16 << 20

_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json|data/weights/weight_\d+|data/weights/model_weights_config\.json"
    r"|data/constants/tensor_\d+|data/constants/model_constants_config\.json"
    r"|data/sample_inputs/model\.pt"
)
_IGNORED = re.compile(r"extra/[\w.\-]+|\.format_version|\.storage_alignment")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_ROOT = re.compile(r"[\w.\- ]+")
_NAME = re.compile(r"[A-Za-z_]\w*")
_QUALIFIED = re.compile(r"[\w.\-]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten(?!\.(from_file|_?\w*pin_memory))|prims|higher_order|quantized_decomposed"
    r"|torchvision|torch_scatter|rngprims)\.\w+(\.\w+)?"
    r"|torch\._?sym_\w+|torch\.(add|sub|mul|neg)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|getitem|and_"
    r"|or_|xor|not_|invert|index|is_|is_not|lshift|rshift|concat|contains)"
    r"|math\.(ceil|floor|trunc|sqrt|log|log2|exp|pow|fabs|isclose|prod)"
)
_SAMPLES = "data/sample_inputs/model.pt"
_GLOBALS = frozenset("GLOBAL STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4".split())
_TENSOR_PARTS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter|tensor_v3)"
    r"|torch \w+(Storage|Tensor)|torch (device|Size|dtype|\w+\d+|bool)"
    r"|torch\.storage (UntypedStorage|TypedStorage)|torch\.serialization _get_layout"
)


def clean_archive(path: Path) -> bytes:
    """The archive with what a network needs and nothing else.

    Args:
        path: File that ``torch.export.save`` wrote.

    Raises:
        ModelFileError: It is no such archive, or holds what could run code when it is read.
    """
    label = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, label)
            return _written({name: archive.read(info) for name, info in members.items()}, label)
    except ModelFileError:
        raise
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # damaged archives raise many kinds
        raise ModelFileError(
            f"{path}: not a .pt2 archive, or truncated or damaged ({type(error).__name__}: "
            f"{str(error)[:200]}); save it again with torch.export.save"
        ) from error


def _members(archive: zipfile.ZipFile, label: str) -> dict[str, zipfile.ZipInfo]:
    """The members to keep, by their names below the archive's root."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        _refuse(label, f"it has {len(infos)} members, at most {MAX_MEMBERS} are read")
    names = [info.filename for info in infos]
    if "serialized_exported_program.json" in names:
        raise ModelFileError(
            f"{label}: an archive of torch before 2.8, whose weights are pickled and run code when "
            "they are read; export the model again with torch.export.save of a newer version"
        )
    if not any(name.endswith("models/model.json") for name in names):
        raise ModelFileError(
            f"{label}: a zip archive, but no exported program (a state dict or TorchScript file is "
            "none); save the model with torch.export.save(torch.export.export(model, args), path)"
        )
    root = next(name for name in names if name.endswith("models/model.json")).partition("/")[0]
    kept: dict[str, zipfile.ZipInfo] = {}
    stored = unpacked = 0
    for info in infos:
        place, _, name = info.filename.partition("/")
        if info.is_dir():
            continue
        known = _KEPT.fullmatch(name) or _IGNORED.fullmatch(name)
        if place != root or not _ROOT.fullmatch(root) or name in kept or not known:
            _refuse(
                label,
                f"it holds {info.filename[:100]!r}: programs of one model are read, made of "
                "tensors, their JSON and nothing else (no pickled objects, no libraries)",
            )
        stored, unpacked = stored + info.compress_size, unpacked + info.file_size
        if _KEPT.fullmatch(name):
            kept[name] = info
    if unpacked > min(MAX_BYTES, _SLACK + _LARGEST_RATIO * stored):
        _refuse(label, f"it unpacks to {unpacked >> 20} MiB, more than such an archive can hold")
    return kept


def _written(members: dict[str, bytes], label: str) -> bytes:
    """The cleaned archive."""
    for name, content in members.items():
        if name.endswith("_config.json"):
            members[name] = _checked_config(name, content, members, label)
    members["models/model.json"] = _checked_program(members["models/model.json"], label)
    _check_pickle(members.get(_SAMPLES, b""), label)
    members[_SAMPLES] = b""  # nothing here needs them
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return buffer.getvalue()


def _check_pickle(content: bytes, label: str) -> None:
    """Refuses example inputs that are more than tensors; they are not unpickled in any case."""
    if not content:
        return
    what = (
        f"{_SAMPLES} holds pickled Python objects, which run code when they are read; export the "
        "model again with tensors alone as example inputs"
    )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickled = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
            if len(pickled) != 1 or pickled[0].file_size > MAX_PROGRAM_BYTES:
                _refuse(label, what)
            for code, argument, _ in pickletools.genops(archive.read(pickled[0])):
                if code.name in _GLOBALS and not _TENSOR_PARTS.fullmatch(str(argument)):
                    _refuse(label, what)
    except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        _refuse(label, what)


def _checked_config(name: str, content: bytes, members: dict[str, bytes], label: str) -> bytes:
    folder = name.rpartition("/")[0]
    record = parse_object(content, MAX_PROGRAM_BYTES)
    entries = record.get("config")
    if not isinstance(entries, dict):
        _refuse(label, f"{name} lists no weights")
    for entry_name, entry in entries.items():
        where = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(where, str) or not _PAYLOAD.fullmatch(where):
            _refuse(label, f"{entry_name[:60]} is kept in {str(where)[:60]!r}, which is no tensor")
        if entry.get("use_pickle") or entry.get("tensor_meta") is None:
            _refuse(
                label,
                f"{folder}/{where} holds pickled Python objects, which run code when they are "
                "read; export the model again with plain tensors alone as weights",
            )
        if f"{folder}/{where}" not in members:
            _refuse(label, f"{folder}/{where} is missing, so it is truncated")
        if not _QUALIFIED.fullmatch(entry_name):
            _refuse(label, f"{entry_name[:60]!r} is no name of a weight")
    _check_fields(record, label)
    return content


def _checked_program(content: bytes, label: str) -> bytes:
    program = parse_object(content, MAX_PROGRAM_BYTES)
    _check_fields(program, label)
    program["guards_code"] = []
    return json.dumps(program).encode()


def _check_fields(record: Any, label: str) -> None:
    """Checks every field that torch evaluates, resolves or writes into code; drops metadata."""
    for key, value, parent in _fields(record):
        if key == "nodes" and isinstance(value, list):
            for node in value:
                _check_node(node, label)
        elif key == "expr_str" and not is_size(value):
            _refuse(label, f"{str(value)[:80]!r} is no size that torch.export writes")
        elif key == "as_operator" and not _OPERATOR.fullmatch(str(value)):
            _refuse(label, f"{str(value)[:80]!r} is no operator of ATen")
        elif key in ("in_spec", "out_spec", "treespec") and isinstance(value, str):
            if re.search(r"(?i)defaultdict|enum|__\w+__", value):
                _refuse(label, f"{key} holds types other than tuples, lists and dicts")
        elif key in ("as_custom_obj", "custom_obj", "class_fqn") and value is not None:
            _refuse(label, "it holds objects of C++ classes; export it with tensors alone")
        elif key in ("name", "graph_name") and value is not None:
            if value != "" and not _NAME.fullmatch(str(value)):
                _refuse(label, f"{str(value)[:80]!r} is no name that torch.export writes")
        elif key in ("target", "fqn", "buffer_name", "parameter_name", "tensor_constant_name"):
            if "inputs" not in parent and not _QUALIFIED.fullmatch(str(value)):
                _refuse(label, f"{str(value)[:80]!r} is no name of a weight")
        elif key == "range_constraints" and isinstance(value, dict):
            for symbol in value:
                if not is_size(symbol):
                    _refuse(label, f"{symbol[:80]!r} is no size that torch.export writes")
    if isinstance(record.get("range_constraints"), dict) or "graph_module" in record:
        _check_symbols(record, label)


def _check_node(node: Any, label: str) -> None:
    target = node.get("target") if isinstance(node, dict) else None
    if not isinstance(target, str) or not _OPERATOR.fullmatch(target):
        _refuse(label, f"it calls {str(target)[:80]!r}, which is no operator of ATen")
    node["metadata"] = {}


def _check_symbols(record: dict[str, Any], label: str) -> None:
    """Keys of tables that name values are written into code too."""
    for key, value, _ in _fields(record):
        if key in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"):
            for name in value if isinstance(value, dict) else ():
                if not _NAME.fullmatch(name):
                    _refuse(label, f"{name[:80]!r} is no name that torch.export writes")


def _fields(record: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every field of every object in JSON, with the object, without recursion."""
    waiting = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(item for item in value if isinstance(item, list | dict))
        else:
            for key, item in value.items():
                yield key, item, value
                if isinstance(item, list | dict):
                    waiting.append(item)


def _refuse(label: str, what: str) -> NoReturn:
    raise ModelFileError(f"{label}: {what}; save it again with torch.export.save")
