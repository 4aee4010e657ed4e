"""Verdicts on default builds: whether a network computes what another engine makes of it.

A verdict is taken once for a network, device and version of the compiler, and kept in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tvm_costmodel.compilers.components import versions
from tvm_costmodel.profiling.measuring.record import content_key
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import WorkerFailure

logger = logging.getLogger(__name__)

Place = tuple[str, str, str, str]
"""The graph's hash, device, key of the pipeline and name of the compiler."""


def verdict_of(
    store: Store,
    place: Place,
    check: Callable[[], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """The stored verdict, or a new one, which is stored.

    Args:
        store: The store.
        place: The build that is meant.
        check: Asks the worker for a verdict; its failure leaves none.

    Returns:
        See `tvm_costmodel.profiling.worker.output_check.check_outputs`.
    """
    verdict = stored_verdict(store, place)
    if verdict is None:
        try:
            verdict = check()
        except WorkerFailure as failure:
            logger.warning("outputs are not compared with another engine's: %s", failure)
            return {"reference": "", "equal": True}
        store.put_tuned(_key(place), verdict)
    if not verdict["reference"]:
        logger.info("there is no engine to compare outputs with")
    return verdict


def stored_verdict(store: Store, place: Place) -> Mapping[str, Any] | None:
    """The verdict that the store has; None where the network was not compared yet."""
    return store.tuned(_key(place))


def _key(place: Place) -> str:
    return content_key("outputs", *place, dict(versions(place[-1])))


def fault(verdict: Mapping[str, Any]) -> str:
    """What is wrong with the outputs, in one line; empty where nothing is."""
    if verdict["equal"]:
        return ""
    return (
        f"the default build computes a wrong output {verdict['output']!r}: it differs from that of "
        f"{verdict['reference']} by {verdict['difference']:.2g} of its largest magnitude; "
        "please report the model, and do not use its library"
    )
