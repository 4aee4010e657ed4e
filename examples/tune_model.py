"""Tunes a network's graph-level decisions and says what they are worth on this machine.

    python examples/tune_model.py model.onnx tuned/ [predictor]

The predictor is the device's own when not given; ``random`` needs none.
"""

import sys

import tvm_costmodel as tcm


def main() -> None:
    """Writes library and report into the directory and prints the decisions."""
    path, output, *predictor = sys.argv[1:]
    result = tcm.tune(path, predictor=(predictor or [None])[0], measure=4, output=output)
    report = result.report
    for entry in report.decisions:
        where = "network" if entry["operator"] is None else f"{entry['op']} {entry['operator']}"
        print(f"{where:16} {entry['decision']} {entry['value']} (default {entry['default']})")
    print(f"{report.default_ms:.4g} ms -> {report.best_ms:.4g} ms: {report.summary}")
    print(f"{result.artifact(output)} holds the module")


if __name__ == "__main__":
    main()
