"""Randomly damaged files of every kind: accepted, or refused in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.security.mutations import MUTATORS, SHARES, Corpus
from tests.security.running import run_cases

pytest.importorskip("tvm")
pytest.importorskip("xgboost")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"))


def check(corpus: Corpus, cases: list[tuple[str, int]], folder: Path) -> Counter[str]:
    outcomes = run_cases(corpus.write, cases, folder)
    faults = [(o.case.kind, o.case.seed, o.what, o.text[-600:]) for o in outcomes if o.is_fault]
    assert faults == []
    return Counter(outcome.what for outcome in outcomes)


def test_500_mutations_are_accepted_or_refused_in_one_line(corpus: Corpus, tmp_path: Path) -> None:
    assert sum(SHARES.values()) == 500 and set(SHARES) == set(MUTATORS)
    cases = [(kind, seed) for kind, count in SHARES.items() for seed in range(count)]
    counts = check(corpus, cases, tmp_path)
    assert counts["refused"] > 250
    assert counts["accepted"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MUTATORS))
def test_10_000_mutations(corpus: Corpus, kind: str, tmp_path: Path) -> None:
    check(corpus, [(kind, seed) for seed in range(1000, 1000 + 20 * SHARES[kind])], tmp_path)
