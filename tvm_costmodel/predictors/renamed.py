"""Predictors whose cards in older checkpoints hold another name than the one in use."""

from __future__ import annotations

from collections.abc import Mapping

from tvm_costmodel.errors import ConfigError

RENAMED: Mapping[str, str] = {
    "roofline_process": "roofline_gp",
    "nar_former_v2_decided": "nar_former_v2_kernel",
    "xgboost_decided": "xgboost_kernel",
    "flops_decided": "flops_kernel",
}
"""Name on an older card to the predictor's name in the registry."""


def current_name(name: str) -> str:
    """The name in use of the predictor that a card names."""
    return RENAMED.get(name, name)


def refuse_renamed(name: str) -> None:
    """Refuses a name that only older cards hold.

    Raises:
        ConfigError: The message gives the name in use.
    """
    if name in RENAMED:
        raise ConfigError(f"predictor {name!r} is now called {RENAMED[name]!r}")
