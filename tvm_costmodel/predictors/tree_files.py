"""XGBoost's JSON of trees, checked before XGBoost reads it.

XGBoost follows the indices of a file without looking at them: a child out of range is a crash and
a child above its parent an endless loop, both when it predicts. The file is checked, and read once
by this module as a program of its own (``python -m``), before the caller reads it: a fork would
lack the OpenMP threads that the caller may have started, and XGBoost would wait for them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.bounded_reading import parse_object
from tvm_costmodel.errors import CheckpointError, MissingDependencyError
from tvm_costmodel.isolation import ChildFailure, Limits, answer_request, in_program

MAX_BYTES = 1 << 30
MAX_TREES = 100_000
_PER_NODE = (
    "left_children right_children parents split_conditions split_indices split_type default_left "
    "base_weights loss_changes sum_hessian"
).split()
_NO_PARENT = 2**31 - 1
_OBJECTIVES = ("reg:", "rank:", "binary:logistic")


def read_booster(path: Path, features: int | None = None) -> Any:
    """Reads trees that ``Booster.save_raw("json")`` wrote.

    Args:
        path: The file.
        features: How many features the trees must be of; any number when not given.

    Returns:
        The ``xgboost.Booster``.

    Raises:
        CheckpointError: The file is damaged, or holds no regression trees of these features.
        MissingDependencyError: XGBoost is not installed.
    """
    xgb = import_xgboost()
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        record = parse_object(content, MAX_BYTES)
        count = _check(record, features)
    except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no trees ({str(error)[:200]}): train it again with `tvm-costmodel train`"
        ) from None

    try:
        _try(content, count)
    except ChildFailure as error:
        raise CheckpointError(
            f"{path} holds no trees that XGBoost {xgb.__version__} can read ({error}): train it "
            "again with `tvm-costmodel train`"
        ) from None
    booster = xgb.Booster()
    booster.load_model(bytearray(content))
    return booster


@functools.lru_cache(maxsize=64)
def _try(content: bytes, features: int) -> None:
    """Reads the trees in a program of its own, once for each content.

    Raises:
        ChildFailure: XGBoost crashed, hung or refused them.
    """
    request = {"trees": content.decode("utf-8", "replace"), "features": features}
    in_program("tvm_costmodel.predictors.tree_files", request, Limits.for_content(len(content)))


def import_xgboost() -> Any:
    """Imports XGBoost.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise MissingDependencyError("these trees need XGBoost: pip install xgboost") from error
    return xgboost


def _check(record: Mapping[str, Any], features: int | None) -> int:
    """Raises for a file of other content; returns how many features the trees are of."""
    learner = record["learner"]
    parameters = learner["learner_model_param"]
    booster = learner["gradient_booster"]
    model = booster["model"]
    _require(booster["name"] == "gbtree", f"it is {str(booster['name'])[:40]}, not gbtree")
    objective = str(learner["objective"]["name"])
    _require(objective.startswith(_OBJECTIVES), f"its objective is {objective[:40]}")
    count = _count(parameters["num_feature"])
    _require(0 < count <= 1_000_000, f"it has {count} features")
    _require(features is None or count == features, f"it has {count} features, not {features}")
    _require(_count(parameters.get("num_class", "0")) <= 1, "it tells classes apart")
    _require(_count(parameters.get("num_target", "1")) <= 1, "it has several targets")
    trees, tree_info = model["trees"], model["tree_info"]
    _require(isinstance(trees, list) and len(trees) <= MAX_TREES, "trees is no list of trees")
    stated = _count(model["gbtree_model_param"]["num_trees"])
    _require(stated == len(trees) == len(tree_info), f"it states {stated} of {len(trees)} trees")
    _require(all(group == 0 and type(group) is int for group in tree_info), "trees have groups")
    parallel = _count(model["gbtree_model_param"].get("num_parallel_tree", "1"))
    _require(parallel == 1, f"{parallel} trees of a round")
    rounds = model.get("iteration_indptr", list(range(len(trees) + 1)))
    _require(rounds == list(range(len(trees) + 1)), "rounds are not of one tree each")
    names = (learner.get("feature_names", []), learner.get("feature_types", []))
    _require(all(len(entry) in (0, count) for entry in names), "names of other features")
    for position, tree in enumerate(trees):
        _check_tree(position, tree, count)
    return count


def _check_tree(position: int, tree: Mapping[str, Any], features: int) -> None:
    where = f"tree {position}"
    nodes = _count(tree["tree_param"]["num_nodes"])
    _require(_count(tree["tree_param"]["num_feature"]) == features, f"{where} has other features")
    leaf = _count(tree["tree_param"].get("size_leaf_vector", "1"))
    _require(leaf <= 1, f"{where} has leaves of {leaf} values")
    _require(nodes >= 1 and tree["id"] == position, f"{where} has {nodes} nodes")
    columns = {}
    for name in _PER_NODE:
        column = tree[name]
        _require(isinstance(column, list) and len(column) == nodes, f"{name} of {where} is cut")
        values = np.array(column)
        _require(values.ndim == 1 and values.dtype.kind in "ifb", f"{name} of {where} is no row")
        _require(
            bool(np.isfinite(values.astype(np.float64)).all()), f"{name} of {where}: no number"
        )
        columns[name] = values
    _check_children(where, nodes, features, columns)
    for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes"):
        _require(not tree.get(name), f"{where} splits by categories")


def _check_children(
    where: str, nodes: int, features: int, columns: Mapping[str, np.ndarray]
) -> None:
    left, right, parents = (
        columns[name] for name in ("left_children", "right_children", "parents")
    )
    is_whole = all(column.dtype.kind == "i" for column in (left, right, parents))
    _require(is_whole, f"children of {where} are no integers")
    order = np.arange(nodes)
    leaf = left == -1
    _require(bool((leaf == (right == -1)).all()), f"a node of {where} has one child")
    inner = ~leaf
    for child in (left[inner], right[inner]):
        in_order = (child > order[inner]) & (child < nodes)
        _require(bool(in_order.all()), f"a child in {where} is not below its parent")
        _require(bool((parents[child] == order[inner]).all()), f"parents in {where} do not fit")
    _require(parents[0] == _NO_PARENT, f"{where} has no root")
    named = np.concatenate([left[inner], right[inner]])
    _require(len(set(named.tolist())) == nodes - 1, f"nodes of {where} have no or two parents")
    splits = columns["split_indices"]
    _require(splits.dtype.kind == "i", f"split_indices of {where} are no integers")
    _require(bool(((splits >= 0) & (splits < features)).all()), f"{where} splits by no feature")
    _require(not columns["split_type"].any(), f"{where} splits by categories")


def _count(value: Any) -> int:
    """A number that XGBoost writes as text."""
    if not isinstance(value, str) or not value.isdigit() or len(value) > 9:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return int(value)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def finite_numbers(text: str | None, count: int) -> Sequence[float]:
    """Numbers that a checkpoint keeps as JSON text next to its trees.

    Raises:
        ValueError: They are not ``count`` finite numbers.
    """
    from tvm_costmodel.bounded_reading import parse_json

    numbers = np.array(parse_json(text or ""), dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{text!r:.60} is not {count} finite numbers")
    return list(map(float, numbers))


def _prepare() -> None:
    """Imports XGBoost, before memory is limited."""
    import_xgboost()


def _answer(request: Mapping[str, Any]) -> bytes:
    """Reads the trees and predicts one row of zeros, float64 bytes."""
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(request["trees"].encode()))
    booster.set_param({"nthread": 1})
    matrix = xgboost.DMatrix(np.zeros((1, request["features"]), np.float32), nthread=1)
    return np.asarray(booster.predict(matrix), np.float64).tobytes()


if __name__ == "__main__":
    answer_request(_answer, _prepare)
