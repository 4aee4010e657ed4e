"""Tuning inside ``tvm.compile``: a pass that decides for the network it is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tvm_costmodel.errors import ConfigError, CostModelError
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.tuning.predictors import load_scorer
from tvm_costmodel.tuning.result import device_of_target
from tvm_costmodel.tuning.search import BUDGET, search
from tvm_costmodel.tuning.settings import TuneSettings
from tvm_costmodel.tuning.subject import Subject
from tvm_costmodel.tuning.tune import decide, space_for

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.relax import PipelineConfig
    from tvm_costmodel.predictor import Predictor
    from tvm_costmodel.tuning.scoring import Scorer


def relax_pipeline(
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None,
    measure: int = 0,
    tolerance: float = 1e-3,
    *,
    device: Device | str = "cpu",
    candidates: int = BUDGET,
    strategy: str = "auto",
    seed: int = 0,
    decided: Callable[[PipelineConfig], Any] | None = None,
    **measuring: Any,
) -> tvm.transform.Pass:
    """A pass for ``tvm.compile(mod, target, relax_pipeline=...)``.

    Args:
        predictor: What scores candidates, as for `tvm_costmodel.tune`.
        measure: Candidates to measure; with 0 the predictor alone decides: nothing is built or
            run beforehand, and what a value of a decision errs at most is taken from its
            declaration.
        tolerance: Largest difference of an output, relative to the largest magnitude of it.
        device: What to tune for; its target must be the one that is compiled for.
        candidates: Candidates that the search scores at most.
        strategy: How to search.
        seed: Of the search.
        decided: Called with what was decided for each network.
        **measuring: With ``measure``, further arguments of `tvm_costmodel.tune`: ``store``,
            ``rounds``, ``adapt``, ``minutes``, ``visits``, ``cores``, ``measurement``, ``again``,
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
        tvm_ffi.register_error(kind)  # or TVM makes RuntimeErrors of them on their way out
    if measure < 0 or (measuring and not measure):
        raise ConfigError(
            f"measure is {measure} with {', '.join(measuring) or 'nothing else'}; use 0 for a "
            "decision by prediction alone, or 1 or more to measure"
        )
    budgets = {k: measuring.pop(k) for k in _BUDGETS if k in measuring}
    settings = TuneSettings(
        measure=max(1, measure),
        tolerance=tolerance,
        candidates=candidates,
        strategy=strategy,
        seed=seed,
        **budgets,
    )
    chosen = resolve_device(device) if isinstance(device, str) else device

    @tvm.transform.module_pass(opt_level=0, name="CostModelTunedPipeline")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        from tvm_costmodel.compilers.relax import pipeline

        subject = Subject.of(mod)
        here = device_of_target(chosen, tvm.target.Target.current(allow_none=False))
        config: Any
        if measure:
            config = decide(subject, here, settings, predictor, **measuring).config
        else:
            config = _predicted(subject, here, settings, predictor)
        if decided is not None:
            decided(config)
        return pipeline(config)(mod)

    return run


_BUDGETS = ("rounds", "adapt", "minutes", "visits")


def _predicted(
    subject: Subject, device: Device, settings: TuneSettings, predictor: Any
) -> PipelineConfig:
    space = space_for(subject, device, settings.tolerance)
    scorer, _ = load_scorer(predictor, space, device, settings.seed)
    found = search(space, scorer, settings.candidates, None, settings.strategy, settings.seed)
    return cast("PipelineConfig", space.config(found.ranked[0].candidate))
