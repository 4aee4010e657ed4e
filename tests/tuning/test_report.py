"""Reports as people and as programs read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm_costmodel.tuning.report import MeasuredCandidate, TuneReport


def entry(
    decision: str, value: str, default: str, operator: int | None = None
) -> dict[str, object]:
    op = None if operator is None else "conv2d"
    return {"operator": operator, "op": op, "decision": decision, "value": value,
            "default": default, "by": "PipelineConfig"}  # fmt: skip


def report(*decisions: Any) -> TuneReport:
    measured = MeasuredCandidate({"network": {"fusion": "depth4"}}, "predicted best", 1.0, "ok",
                                 1.5, 0.5, 0.01)  # fmt: skip
    return TuneReport(
        model="m", graph_hash="0" * 16, device="cpu-test", predictor="p", strategy="evolution",
        tolerance=1e-3, default_ms=3.0, best_ms=1.5, speedup=2.0, noise=0.01,
        default_predicted_ms=2.0, best_predicted_ms=1.0, measured=1, reused=0, failed=0, scored=9,
        scored_per_second=2000.0, space=100, joint_space=10, max_abs_err=0.0, max_rel_err=0.0,
        candidate={}, decisions=decisions, trials=(measured,),
    )  # fmt: skip


def test_the_text_lists_what_is_not_the_default() -> None:
    text = report(
        entry("layout", "NHWC", "NHWC"),
        entry("fusion", "depth4", "full"),
        entry("stage1_layout", "same", "same"),
        entry("algorithm", "winograd4", "direct", operator=7),
    ).to_text()
    head, listed, summary = text.split("\n\n")
    assert head.splitlines()[0].split()[-2:] == ["ratio", "status"]
    assert head.splitlines()[2].split()[-1] == "ok"
    rows = [line.split() for line in listed.splitlines()[2:]]
    assert [row[:4] for row in rows] == [
        ["network", "fusion", "depth4", "full"],
        ["conv2d", "7", "algorithm", "winograd4"],
    ]
    assert "2.000 times as fast (noise 1.0%)" in summary


def test_long_lists_end_with_how_many_more_there_are() -> None:
    many = [entry("algorithm", "winograd4", "direct", operator=i) for i in range(33)]
    text = report(*many, entry("layout", "NHWC", "NHWC")).to_text()
    assert text.count("winograd4") == 30 and "and 3 more decisions" in text


def test_the_default_has_nothing_to_list() -> None:
    text = report(entry("layout", "NHWC", "NHWC")).to_text()
    assert "carried out by" not in text and "more decisions" not in text


def test_people_read_the_words_of_the_field_and_json_keeps_the_stored_values() -> None:
    merged = report(entry("products", "joined", "apart"))
    rows = [line.split() for line in merged.to_text().splitlines()]
    assert ["network", "parallel", "matmuls", "merged", "separate", "PipelineConfig"] in rows
    assert merged.to_dict()["decisions"][0]["value"] == "joined"
    assert TuneReport.from_dict(merged.to_dict()) == merged


def test_the_outcome_in_words_keeps_its_name_in_json() -> None:
    record = replace(report(), summary="time was up").to_dict()
    assert record["said"] == "time was up" and "summary" not in record
    assert TuneReport.from_dict(record).summary == "time was up"
