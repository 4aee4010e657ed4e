"""The encoding of candidates: nothing is lost, and it knows which decisions fit together."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from tests.compilers.networks_small import network, staged
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import DECISIONS
from tvm_costmodel.tuning.space.encoding import CandidateEncoding

DEFAULTS = {decision.name: decision.default for decision in DECISIONS}


@pytest.fixture(scope="module", params=["staged", "attention", "dense"])
def space(request) -> DecisionSpace:
    module = staged() if request.param == "staged" else network(request.param)
    return DecisionSpace.for_graph(from_relax(module), tolerance=1e-2, half_arithmetic=True)


@pytest.fixture(scope="module")
def encoding(space) -> CandidateEncoding:
    return CandidateEncoding(space.classes, DEFAULTS)


def test_a_candidate_is_read_back_as_it_was_written(space, encoding) -> None:
    rng = np.random.default_rng(0)
    assert encoding.candidate(encoding.of(space.default)) == space.default
    for _ in range(60):
        drawn = space.sample(rng, 0.5)
        written = encoding.of(drawn)
        for place, column in encoding.column.items():
            default = space.by_place[place].values[0]
            value = space.by_place[place].values[int(written[column])]
            assert drawn.values.get(place, default) == value
        read = encoding.candidate(written)
        assert read == drawn and hash(read) == hash(drawn)
        assert read.entries == tuple(sorted(drawn.entries))
        assert read.parts == Candidate(drawn.entries).parts
        assert (read.network, read.operators) == (drawn.network, drawn.operators)


def test_every_drawn_encoding_is_allowed_where_the_space_takes_it(space, encoding) -> None:
    rng = np.random.default_rng(1)
    counts = encoding.counts[encoding.class_of]
    met = set()
    for _ in range(200):
        drawn = np.where(rng.random(len(counts)) < 0.15, rng.integers(0, counts), 0)
        candidate = encoding.candidate(drawn)
        allowed = bool(encoding.allowed(drawn).all())
        assert allowed == space.is_valid(candidate)
        met.add(allowed)
        valid = encoding.candidate(np.where(encoding.allowed(drawn), drawn, 0))
        assert set(valid.entries) <= set(candidate.entries)
    assert True in met


def test_what_a_space_does_not_offer_has_no_encoding(space, encoding) -> None:
    for foreign in ({(10**6, "vectors"): 2}, {(NETWORK, "fusion"): "depth3"}):
        with pytest.raises(KeyError):
            encoding.of(Candidate.of(foreign))
        assert not space.is_valid(Candidate.of(foreign))


def test_the_variants_of_a_candidate_are_all_values_that_fit(space) -> None:
    rng = np.random.default_rng(2)
    for drawn, part in itertools.product([space.sample(rng, 0.4) for _ in range(5)], space.classes):
        default = part[0].decision.default
        tried = (
            drawn.replaced((*c.place, None if value == default else value) for c in part)
            for value in part[0].values
        )
        assert list(space.varied(drawn, part)) == [c for c in tried if space.is_valid(c)]


def test_a_candidate_survives_the_way_to_another_process(space) -> None:
    drawn = space.sample(np.random.default_rng(3), 0.5)
    hash(drawn)
    sent = pickle.loads(pickle.dumps(drawn))  # as multiprocessing would
    assert sent == drawn and "_hash" not in vars(sent)
