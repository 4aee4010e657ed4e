"""Options and fixtures shared by all tests."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tests.warm_programs import warm_programs
from tvm_costmodel.user_cache import VARIABLE

SLOW_FILES = """
test_profiler test_onnx_runtime_kernels test_torch test_workload_forms test_shipped
test_relax_pipeline test_kernel_decisions test_stage_layouts test_mixed_precision test_kill_resume
test_trainer test_annotate_relax test_tune test_relay_parity test_mutations test_graph_tuning
test_rpc test_paired_profiler test_native_walk test_compiler test_onnx_networks test_tune_rpc
test_probe test_calibrate test_accuracy_trainer test_space test_conformance test_annotate_relay
test_cpu_rule_matmul test_cpu_rule_conv test_cpu_rule_rows test_cpu_rule_version
test_cpu_rule_elementwise test_differential test_fold_constants test_verify
test_onnx_export test_relay_kernel_former test_onnx_operators test_onnx test_padded_ensemble
test_ensemble_trainer test_kill_commands test_hostile_board test_load_model test_onnx_batch_size
test_nar_former test_cell_gp test_nnlp test_baselines test_compare test_workflow test_staleness
test_relay_tuning test_nnmeter test_accuracy test_wrong_build test_relax_and_pt2 test_tvm_version
test_train_command test_typing test_standalone test_kernel_table test_in_place test_kernel_profile
""".split()
"""Files that build, measure, export or train: they start first, and `--fast` leaves them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")
    parser.addoption(
        "--fast", action="store_true", help="only files that build and measure nothing"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    if config.getoption("--fast"):
        left_out = [item for item in items if item.path.stem in place]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.path.stem not in place]
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Modules stay: a third of the time of a test that makes many objects went into them."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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


@pytest.fixture(autouse=True, scope="session")
def quick_starts() -> Iterator[None]:
    """Workers and readers start from a process that has imported what they need."""
    with warm_programs():
        yield
