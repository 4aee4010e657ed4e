"""Tuning inside ``tvm.compile``: a pass that tunes the network that is compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tvm_costmodel.errors import ConfigError, CostModelError
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.tuning.config import TuneSettings
from tvm_costmodel.tuning.result import device_of_target, device_target
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.search.search import BUDGET, search
from tvm_costmodel.tuning.task import TuneTask
from tvm_costmodel.tuning.tune import decide, space_for

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.relax import PipelineConfig
    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.tuning.scoring.scorer import Scorer


def relax_pipeline(
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None,
    measure: int = 0,
    tolerance: float = 1e-3,
    *,
    device: Device | str = "cpu",
    candidates: int = BUDGET,
    strategy: str = "auto",
    seed: int = 0,
    callback: Callable[[PipelineConfig], Any] | None = None,
    **measuring: Any,
) -> tvm.transform.Pass:
    """A pass for ``tvm.compile(mod, target, relax_pipeline=...)``.

    Args:
        predictor: What scores candidates, as for `tvm_costmodel.tune`.
        measure: Candidates to measure; with 0 the predictor alone decides: nothing is built or
            run beforehand, and the error of a decision's value is taken from its declaration.
        tolerance: Largest difference of an output, relative to the largest magnitude of it.
        device: The device to tune for; its target must be the one that is compiled for.
        candidates: Candidates that the search scores at most.
        strategy: How to search.
        seed: Seed of the search.
        callback: Called with the configuration chosen for each network.
        **measuring: With ``measure``, further arguments of `tvm_costmodel.tune`: ``store``,
            ``rounds``, ``adapt``, ``minutes``, ``blocks``, ``cores``, ``measurement``, ``force``,
            ``progress``.

    Raises:
        ConfigError: A setting is out of range; when the pass runs, the target is not the
            device's.
        DeviceError: There is no such device.
    """
    import tvm
    import tvm_ffi

    kinds: list[type] = [CostModelError, *CostModelError.__subclasses__()]
    for kind in kinds:
        tvm_ffi.register_error(kind)  # or TVM turns them into RuntimeErrors
    if measure < 0 or (measuring and not measure):
        raise ConfigError(
            f"measure is {measure} with {', '.join(measuring) or 'nothing else'}; use 0 for a "
            "decision by prediction alone, or 1 or more to measure"
        )
    settings = TuneSettings(
        measure=max(1, measure),
        tolerance=tolerance,
        candidates=candidates,
        strategy=strategy,
        seed=seed,
        predictor=predictor,
        **measuring,
    )
    chosen = resolve_device(device) if isinstance(device, str) else device

    @tvm.transform.module_pass(opt_level=0, name="CostModelTunedPipeline")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        from tvm_costmodel.compilers.relax import pipeline

        task = TuneTask.of(mod)
        compiled_for = device_of_target(chosen, tvm.target.Target.current(allow_none=False))
        config: Any
        if measure:
            config = decide(task, compiled_for, settings).config
        else:
            config = _predicted(task, compiled_for, settings)
        if callback is not None:
            callback(config)
        return pipeline(config)(mod)

    return run


def _predicted(task: TuneTask, device: Device, settings: TuneSettings) -> PipelineConfig:
    from tvm_costmodel.compilers.relax.runtime_weights import runtime_weights

    assert task.held is not None  # a pass has the module
    module, graph = task.held
    target = device_target(device, task.compiler)
    space = space_for(task, graph, target, settings, runtime_weights(module, graph))
    scorer, _ = load_scorer(settings.predictor, space, device, settings.seed)
    result = search(space, scorer, settings.candidates, None, settings.strategy, settings.seed)
    return cast("PipelineConfig", space.config(result.ranked[0].candidate))
