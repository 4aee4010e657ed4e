"""Options and fixtures shared by all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tvm_costmodel.user_cache import VARIABLE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


LONGEST = (
    "test_shipped.py",
    "test_onnx_runtime_kernels.py",
    "test_torch.py",
    "test_workload_forms.py",
    "test_profiler.py",
    "test_stage_layouts.py",
    "test_relax_pipeline.py",
    "test_kill_resume.py",
    "test_trainer.py",
    "test_relay_parity.py",
    "test_kernel_decisions.py",
    "test_tune_rpc.py",
)
"""Files that start first, so that none of them is what the others wait for at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def level_of_the_package() -> None:
    """Takes back what ``-q`` and ``-v`` of a command set that ran in this program before."""
    logging.getLogger("tvm_costmodel").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what `calibrate` made for this user out of the tests, and the other way round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield
