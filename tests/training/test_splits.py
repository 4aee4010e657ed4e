from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.training.splits import Split, leave_one_family_out, random_split

FAMILIES = ["resnet"] * 200 + ["vgg"] * 100 + ["vit"] * 20
HASHES = [f"{i:032x}" for i in range(320)]


def sides(split: Split) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


def test_every_family_has_its_share_on_every_side() -> None:
    split = random_split(FAMILIES, HASHES, seed=3)
    counts = [Counter(FAMILIES[i] for i in side) for side in sides(split)]
    for family, total in Counter(FAMILIES).items():
        assert counts[1][family] == counts[2][family] == total // 10
    assert sorted(np.concatenate(sides(split)).tolist()) == list(range(320))


def test_many_small_families_still_fill_the_small_sides() -> None:
    families = [f"family{i // 4}" for i in range(320)]
    split = random_split(families, HASHES, seed=0)
    assert 16 <= len(split.test) <= 48 and 16 <= len(split.validation) <= 48


def test_equal_seeds_give_equal_splits_and_others_do_not() -> None:
    one, same, other = (random_split(FAMILIES, HASHES, seed) for seed in (1, 1, 2))
    assert one.test.tolist() == same.test.tolist() != other.test.tolist()


def test_the_split_follows_the_hash_and_not_the_order() -> None:
    forward = random_split(FAMILIES, HASHES, 0)
    backward = random_split(FAMILIES[::-1], HASHES[::-1], 0)
    assert {HASHES[i] for i in forward.test} == {HASHES[::-1][i] for i in backward.test}


def test_equal_graphs_stay_on_one_side() -> None:
    hashes = [HASHES[i // 2] for i in range(320)]
    split = random_split(FAMILIES, hashes, seed=0)  # checks itself
    assert sum(map(len, sides(split))) == 320


def test_a_leak_is_refused() -> None:
    hashes = ["a", "b", "c", "a"]
    split = Split("random", np.array([0, 1]), np.array([2]), np.array([3]))
    with pytest.raises(ConfigError, match="leaks: graph a is in both train and test"):
        split.check(hashes)
    with pytest.raises(ConfigError, match="empty test side"):
        Split("random", np.array([0]), np.array([2]), np.array([], dtype=int)).check(hashes)


def test_a_split_is_kept_as_lists_of_hashes() -> None:
    split = random_split(FAMILIES, HASHES, seed=0)
    stored = split.to_hashes(HASHES)
    backwards = HASHES[::-1]
    restored = Split.from_hashes(stored, backwards)
    for side, restored_side in zip(sides(split), sides(restored), strict=True):
        assert [HASHES[i] for i in side] == [backwards[i] for i in restored_side]
    with pytest.raises(ConfigError, match=r"leaks: graph .* is in both train and test"):
        Split.from_hashes(stored | {"test": [*stored["test"], stored["train"][0]]}, HASHES)
    with pytest.raises(ConfigError, match="1 graphs of its test side, such as f00, are not among"):
        Split.from_hashes(stored | {"test": ["f00"]}, HASHES)
    with pytest.raises(ConfigError, match="empty validation side"):
        Split.from_hashes({"train": HASHES[:2], "test": HASHES[2:3]}, HASHES)


def test_leave_one_family_out_tests_on_the_whole_family_alone() -> None:
    splits = list(leave_one_family_out(FAMILIES, HASHES, seed=0))
    assert [split.name for split in splits] == ["resnet", "vgg", "vit"]
    for split in splits:
        assert {FAMILIES[i] for i in split.test} == {split.name}
        assert len(split.test) == FAMILIES.count(split.name)
        assert split.name not in {FAMILIES[i] for i in (*split.train, *split.validation)}
        assert len(split.train) + len(split.validation) + len(split.test) == 320
        assert len(split.validation) > 5


def test_a_graph_of_two_families_is_not_trained_on_when_either_is_tested() -> None:
    hashes = [*HASHES]
    hashes[250] = hashes[0]  # a vgg that is a resnet
    first = next(leave_one_family_out(FAMILIES, hashes, seed=0))
    assert 250 not in first.train and 250 not in first.validation


def test_one_family_cannot_be_left_out() -> None:
    with pytest.raises(ConfigError, match="needs at least two"):
        list(leave_one_family_out(["vgg"] * 5, HASHES[:5], 0))
