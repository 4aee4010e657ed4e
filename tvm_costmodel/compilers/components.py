"""Versions of what makes code: schedule templates, vector math, graph passes, importer rewrites.

Each part that can change what is compiled is a `Component` with a version of its own. A build says
which components it used, each row of a store keeps that with their versions, and a label is stale
only where one of them has changed since. This module imports no TVM.

To change generated code, raise the version of the component that changed:

- A template, pass or rewrite that does its work differently: its own version.
- A template that takes functions which another one took: the versions of both.
- New work for some networks alone, which nothing did before: a component of its own that starts at
  version 2 and names the operators; rows from before it was listed count as version 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_costmodel.ops import CATALOGUE

if TYPE_CHECKING:
    from tvm_costmodel.graph.op_graph import OpGraph

DEPTHWISE = "depthwise_conv2d"
"""What `operators` of a component call ``conv2d`` with a filter for each channel."""

OPAQUE = "call_tir"
"""What `operators` of a component call an operator that was imported as a loop program."""

FALLBACK = "template/fallback"


@dataclass(frozen=True)
class Component:
    """A part of a compiler that has a version of its own.

    Attributes:
        name: ``kind/what``, such as ``template/conv``; recorded with each row.
        version: Raised when what it makes of some network changes.
        operators: Canonical names of operators that it may concern, with `DEPTHWISE` for some
            convolutions; empty where that may be any network. It decides for rows that do not
            list it.
        doc: What it does.
        setting: Field of the pipeline's config without which it does nothing; empty where it
            always may.
    """

    name: str
    version: int
    operators: frozenset[str]
    doc: str
    setting: str = ""


def _of(*categories: str) -> frozenset[str]:
    return frozenset(spec.name for spec in CATALOGUE.values() if spec.category in categories)


_ANY: frozenset[str] = frozenset()
_OPAQUE = frozenset((OPAQUE,))
_CONV2D = frozenset(("conv2d", DEPTHWISE))
_CONTRACTIONS = _of("convolution", "matmul", "attention") | {DEPTHWISE}
_EXP = frozenset(
    "exp sigmoid silu softmax log_softmax softplus elu selu mish attention log_add_exp "
    "cross_entropy".split()
)
_PERIODIC = frozenset(
    "tile depth_to_space space_to_depth pixel_shuffle roll attention softmax".split()
)

_REWRITTEN = {
    frozenset(("resize2d",)): "resize upsample",
    frozenset(("dropout",)): "dropout",
    frozenset(("roi_align",)): "roialign",
    _OPAQUE: "attention averagepool bitshift blackmanwindow causalconvwithstate celu "
    "centercroppad concat conv convtranspose cumsum einsum elu eyelike hammingwindow hannwindow "
    "isinf layernormalization lppool maxpool mod negativeloglikelihoodloss nonmaxsuppression "
    "onehot pad pow reducemax reducemin rmsnormalization rotaryembedding selu "
    "softmaxcrossentropyloss spacetodepth split swiglu swish thresholdedrelu",
}
"""ONNX operators that are not imported as TVM does, by what rows from before may hold of them."""

COMPONENTS: dict[str, tuple[Component, ...]] = {
    "relax": (
        Component("template/conv", 2, _CONTRACTIONS, "register tiles of sums of products"),
        Component("template/winograd", 1, _CONV2D, "Winograd convolutions", "kernels"),
        Component("template/im2col", 1, _CONV2D, "convolutions as products", "kernels"),
        Component("template/depthwise", 2, frozenset((DEPTHWISE,)), "a filter for each channel"),
        Component(
            "template/pooling", 1, _of("pooling", "reduction"), "sliding windows and mean images"
        ),
        Component(
            "template/reduction",
            2,
            _of("reduction", "normalisation", "pooling", "attention"),
            "rows of reductions: mean, softmax, layer norm",
        ),
        Component("template/elementwise", 1, _ANY, "element-wise work and copies"),
        Component(FALLBACK, 1, _ANY, "plain loops where no template fits"),
        Component("emit/exp", 3, _EXP, "exp and sigmoid of vectors"),
        Component("emit/tanh", 2, frozenset(("tanh", "gelu_tanh", "mish")), "tanh of vectors"),
        Component("emit/erf", 2, frozenset(("erf", "gelu")), "erf of vectors"),
        Component("emit/periods", 2, _PERIODIC, "loops along which a read repeats"),
        Component("emit/pow", 1, frozenset(("power", "lrn")), "small powers of vectors"),
        Component("pass/buildable_forms", 1, _ANY, "operators in forms that later passes take"),
        Component("pass/fold_constants", 1, _ANY, "operators of constants alone"),
        Component(
            "pass/fold_batch_norm",
            1,
            frozenset(("batch_norm", "clip", "multiply")),
            "batch norm and scales of channels into weights",
        ),
        Component("pass/layout", 1, _CONV2D, "layouts of convolutions"),
        Component(
            "pass/kept_layouts",
            2,
            _of("convolution") - {"conv2d"},
            "other convolutions channels first",
        ),
        Component(
            "pass/merge_matmuls",
            1,
            frozenset(("matmul", "dense")),
            "matrix products of one input as one",
            "join_products",
        ),
        Component(
            "pass/cancel_transposes",
            1,
            _CONV2D | {"transpose", "reshape"},
            "transposes moved down until they cancel",
        ),
        Component("pass/mixed_precision", 1, _ANY, "values stored in float16", "precision"),
        Component("pass/kernel_annotations", 1, _ANY, "decisions for single kernels", "kernels"),
        Component("importer/onnx", 1, _ANY, "cleaning and import of ONNX files"),
        *(
            Component(f"importer/{name}", 2, kinds, f"ONNX's {name} rewritten or bound by name")
            for kinds, names in _REWRITTEN.items()
            for name in names.split()
        ),
        *(
            Component(f"importer/{name}", 1, _ANY, f"ONNX's {name} in rare forms")
            for name in (
                "prelu reducel1 reducel2 reducelogsum reducemean reducesumsquare sign".split()
            )
        ),
    ),
    "relay": (Component("relay/pipeline", 1, _ANY, "everything in a build with Relay"),),
}
"""Components by compiler name; a compiler of one's own may add its row."""

_TEMPLATES = {
    "channels_last": "template/conv",
    "channels_first": "template/conv",
    "depthwise_channels_last": "template/depthwise",
    "row_reduction": "template/reduction",
    "": FALLBACK,
}
_VECTOR_MATH = {"sigmoid": "emit/exp"}


def template_component(template: str) -> str:
    """The component of a schedule template's name; of the fallback where that is empty."""
    return _TEMPLATES.get(template, f"template/{template}")


def vector_math_component(function: str) -> str:
    """The component that replaces a function such as ``exp`` by vector arithmetic."""
    return _VECTOR_MATH.get(function, f"emit/{function}")


def versions(compiler: str) -> dict[str, int]:
    """Version of each component of a compiler; empty where it lists none."""
    return {component.name: component.version for component in COMPONENTS.get(compiler, ())}


def used_versions(compiler: str, used: Iterable[str]) -> dict[str, int]:
    """Versions of the components that a build used.

    Raises:
        KeyError: A component is not in the table.
    """
    table = versions(compiler)
    return {name: table[name] for name in sorted(set(used))}


def full_record(compiler: str, used: Mapping[str, int]) -> dict[str, int]:
    """What a row keeps: versions of what its build used, and 0 for all else that there was."""
    return dict.fromkeys(versions(compiler), 0) | dict(used)


def operator_kinds(graph: OpGraph) -> frozenset[str]:
    """Names of a graph's operators as ``Component.operators`` writes them."""
    kinds = set()
    for operator in graph.operators:
        attrs = operator.attrs
        groups = attrs.get("groups", 1)
        depthwise = groups != 1 and groups == attrs.get("in_channels")
        kinds.add(DEPTHWISE if operator.op == "conv2d" and depthwise else operator.op)
    return frozenset(kinds)


def stale_components(
    compiler: str,
    recorded: Mapping[str, int] | None,
    kinds: Callable[[], Collection[str]],
    settings: Mapping[str, Any],
    unconcerned: Collection[str] = (),
) -> tuple[str, ...]:
    """Names of the components that have changed since a network was built with them.

    Args:
        compiler: Name of the compiler.
        recorded: The row's record, see `full_record`; None for rows without one. An empty record
            is that of a compiler without components.
        kinds: Gives the network's operators, see `operator_kinds`; called where the record does
            not list a component that has changed.
        settings: The fields of the pipeline's config.
        unconcerned: Components that the row cannot have used, where it has no record.
    """
    if recorded is not None and not recorded:
        return ()
    known = recorded or {}
    table = {component.name: component for component in COMPONENTS.get(compiler, ())}
    gone = [name for name, version in known.items() if version and name not in table]
    return (
        *gone,
        *(
            name
            for name, component in table.items()
            if _has_changed(component, known, kinds, settings, unconcerned)
        ),
    )


def _has_changed(
    component: Component,
    known: Mapping[str, int],
    kinds: Callable[[], Collection[str]],
    settings: Mapping[str, Any],
    unconcerned: Collection[str],
) -> bool:
    version = known.get(component.name)
    if version is not None:
        return version not in (0, component.version)
    if component.version == 1 or component.name in unconcerned:
        return False
    if component.setting and not settings.get(component.setting):
        return False
    return not component.operators or not component.operators.isdisjoint(kinds())
