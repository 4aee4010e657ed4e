"""``doctor --measure``: networks that are built and timed here, compared with what is predicted."""

from __future__ import annotations

import re

import pytest

from tests.cli.test_commands import run_json


@pytest.mark.slow
def test_three_networks_are_compared_with_the_predictor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = run_json(capsys, "doctor", "--measure")["checks"]
    measured = [check for check in checks if check["name"].startswith("latency of a")]
    assert len({check["name"] for check in measured}) == 3
    for check in measured:
        words = r"predicted ([\d.]+) ms \(([\d.]+) to ([\d.]+)\), measured ([\d.]+) ms"
        predicted, low, high, latency = map(float, re.fullmatch(words, check["found"]).groups())
        assert 0 < low <= predicted <= high and latency > 0 and not check["required"]
        assert check["ok"] == (low / 1.1 <= latency <= high * 1.1) == (check["remedy"] == "")
