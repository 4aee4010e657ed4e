"""Options and fixtures shared by all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def level_of_the_package() -> Iterator[None]:
    """Takes back what ``-q`` and ``-v`` of a command that ran in this program set."""
    logger = logging.getLogger("tvm_costmodel")
    before = logger.level
    yield
    logger.setLevel(before)
