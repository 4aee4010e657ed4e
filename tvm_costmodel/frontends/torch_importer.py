"""TVM's importer of torch programs, with own converters where it computes something else.

Resizing follows the ratio of the sizes there, whatever scale the program gives, knows no
antialiasing and takes the nearest sample by another rule; a sampling grid is read with its axes in
another order. A value of another shape than torch's is refused, by operator and node.
This module imports TVM and torch: import it lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_costmodel.errors import UnsupportedOperatorError
from tvm_costmodel.frontends.onnx.operators.resizing import Axis, taps

Converter = Callable[[Any], Any]


class Importer(ExportedProgramImporter):
    """TVM's importer with `_resized` and `_sampled` tried first, and shapes checked."""

    @classmethod
    def convert(cls, program: Any) -> tvm.IRModule:
        """Imports a program: one function ``main``, weights as constants.

        Args:
            program: The ``ExportedProgram``.

        Raises:
            UnsupportedOperatorError: A value would have another shape than in torch.
            Exception: Whatever TVM's importer raises.
        """
        module: tvm.IRModule = cls().from_exported_program(
            program.run_decompositions(), False, True, False, custom_convert_map=None
        )
        return module

    def create_convert_map(self) -> dict[str, Converter]:
        """Converters by the name of an operator."""
        converters = super().create_convert_map()
        for name in list(converters):
            if "upsample" in name:
                converters[name] = self._resized(converters[name])
        converters["grid_sampler_2d.default"] = self._sampled
        return {name: _checked(name, convert) for name, convert in converters.items()}

    def _resized(self, otherwise: Converter) -> Converter:
        def convert(node: Any) -> Any:
            x, target = self.env[node.args[0]], node.meta["val"].shape
            extents = [*x.ty.shape, *target]
            if not all(isinstance(n, int | tvm.tirx.IntImm) for n in extents):
                return otherwise(node)
            axes, mode, attrs = _form(node, [int(n) for n in x.ty.shape], list(target))
            if _tvm_agrees(axes, mode, attrs):
                return otherwise(node)
            for axis in axes:
                x = self._sum_of_taps(x, axis, *taps(axis, mode, attrs))
            return x

        return convert

    def _sum_of_taps(self, x: Any, axis: Axis, index: np.ndarray, weight: np.ndarray) -> Any:
        emit, dtype = self.block_builder.emit, str(x.ty.dtype)
        broadcast = [-1 if i == axis.axis else 1 for i in range(x.ty.ndim)]
        total = None
        for place, factor in zip(index.T, weight.T, strict=True):
            part = emit(relax.op.take(x, relax.const(np.ascontiguousarray(place)), axis.axis))
            if not np.all(factor == 1):
                values = np.ascontiguousarray(factor.reshape(broadcast), dtype)
                part = emit(relax.op.multiply(part, relax.const(values, dtype)))
            total = part if total is None else emit(relax.op.add(total, part))
        return total

    def _sampled(self, node: Any) -> Any:
        """grid_sample: torch keeps a point's two coordinates last, TVM before rows and columns."""
        grid = self.env[node.args[1]]
        self.env[node.args[1]] = self.block_builder.emit(relax.op.permute_dims(grid, [0, 3, 1, 2]))
        try:
            return self._grid_sampler_2d(node)
        finally:
            self.env[node.args[1]] = grid


def _form(node: Any, shape: list[int], target: list[int]) -> tuple[list[Axis], str, dict[str, Any]]:
    """Resized axes, the kind of interpolation, and its attributes as ONNX names them."""
    name, given = node.target.__name__, _arguments(node)
    single = [given.get(f"scales_{letter}") for letter in "dhw"][-(len(shape) - 2) :]
    scales = given.get("scale_factors") or single
    axes = []
    for i, scale in enumerate(scales, 2):
        ratio = float(scale) if scale else target[i] / shape[i]
        if target[i] != shape[i] or ratio != 1:
            axes.append(Axis(i, shape[i], target[i], ratio))
    mode = "nearest" if "nearest" in name else "cubic" if "cubic" in name else "linear"
    coordinates = "align_corners" if given.get("align_corners") else "half_pixel"
    if mode == "nearest":
        coordinates = "tf_half_pixel_for_nn" if "exact" in name else "asymmetric"
    antialias = int(name.split(".")[0].endswith("_aa"))
    attrs = {"coordinate_transformation_mode": coordinates, "nearest_mode": "floor"}
    return axes, mode, attrs | {"antialias": antialias, "exclude_outside": antialias}


def _arguments(node: Any) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _tvm_agrees(axes: list[Axis], mode: str, attrs: dict[str, Any]) -> bool:
    if attrs["antialias"] and any(axis.scale < 1 for axis in axes):
        return False
    if mode == "nearest":
        plain = attrs["coordinate_transformation_mode"] == "asymmetric"
        return plain and all(axis.target == axis.extent * int(axis.scale) for axis in axes)
    return all(abs(axis.target - axis.extent * axis.scale) < 1e-6 for axis in axes)


def _checked(name: str, convert: Converter) -> Converter:
    def run(node: Any) -> Any:
        if _arguments(node).get("divisor_override"):
            raise UnsupportedOperatorError(
                f'TVM\'s torch importer has no divisor_override of {name} as node "{node.name}" '
                "has it; multiply by a constant instead"
            )
        value = convert(node)
        kind, expected = getattr(value, "ty", None), getattr(node.meta.get("val"), "shape", None)
        if isinstance(kind, relax.TensorType) and kind.shape is not None and expected is not None:
            extents = [int(n) if isinstance(n, tvm.tirx.IntImm) else n for n in kind.shape]
            static = all(isinstance(n, int) for n in (*extents, *expected))
            if static and extents != list(expected):
                raise UnsupportedOperatorError(
                    f'TVM\'s torch importer makes {extents} of {name} as node "{node.name}" has '
                    f"it, instead of {list(expected)}; rewrite the model without it"
                )
        return value

    return run
