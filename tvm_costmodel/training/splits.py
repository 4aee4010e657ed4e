"""Splits into training, validation and test networks that share no graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a training set.

    Attributes:
        name: ``random`` or the family that is left out.
        train: int64 indices of training networks.
        validation: int64 indices of networks that choose the epoch.
        test: int64 indices of test networks.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def check(self, hashes: Sequence[str]) -> Split:
        """Checks that no graph is on two sides, and returns this split.

        Raises:
            ConfigError: Two sides hold the same graph, or one is empty.
        """
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        side_of: dict[str, str] = {}
        for side, indices in sides.items():
            if not len(indices):
                raise ConfigError(f"split {self.name!r} has an empty {side} side: add networks")
            for graph_hash in {hashes[i] for i in indices}:
                if graph_hash in side_of:
                    raise ConfigError(
                        f"split {self.name!r} leaks: graph {graph_hash} is in both "
                        f"{side_of[graph_hash]} and {side}; split by graph hash"
                    )
                side_of[graph_hash] = side
        return self

    def to_hashes(self, hashes: Sequence[str]) -> dict[str, list[str]]:
        """Sides to graph hashes in the split's order, the form in which a split is stored.

        Raises:
            ConfigError: See `check`.
        """
        self.check(hashes)
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {side: [hashes[i] for i in indices] for side, indices in sides.items()}

    @classmethod
    def from_hashes(
        cls, sides: Mapping[str, Sequence[str]], hashes: Sequence[str], name: str = "stored"
    ) -> Split:
        """Restores the split of `to_hashes` for networks in any order.

        Args:
            sides: ``train``, ``validation`` and ``test``, each a list of graph hashes; all
                networks with the same graph are on one side.
            hashes: Content hash of each network.
            name: Name of the split.

        Raises:
            ConfigError: A side is missing or empty, a graph is on two sides, or one is not among
                the networks.
        """
        indices: dict[str, list[int]] = {}
        for i, graph_hash in enumerate(hashes):
            indices.setdefault(graph_hash, []).append(i)
        parts = []
        for side in ("train", "validation", "test"):
            side_hashes = list(dict.fromkeys(sides.get(side, ())))
            absent = [graph_hash for graph_hash in side_hashes if graph_hash not in indices]
            if absent:
                raise ConfigError(
                    f"split {name!r}: {len(absent)} graphs of its {side} side, such as "
                    f"{absent[0]}, are not among the networks; give the data set that it was "
                    "made from"
                )
            at = [i for graph_hash in side_hashes for i in indices[graph_hash]]
            parts.append(np.array(at, dtype=np.int64))
        return cls(name, *parts).check(hashes)


def random_split(
    families: Sequence[str],
    hashes: Sequence[str],
    seed: int,
    validation: float = 0.1,
    test: float = 0.1,
) -> Split:
    """Random split with equal shares of every family on each side, equal graphs kept together.

    Args:
        families: Family of each network.
        hashes: Content hash of each network.
        seed: Seed of the shuffle.
        validation: Share for validation.
        test: Share for testing.

    Raises:
        ConfigError: There are too few networks for three sides.
    """
    rng = np.random.default_rng(seed)
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    family_of = dict(zip(reversed(hashes), reversed(families), strict=True))
    members: dict[str, list[int]] = {}
    for i, graph_hash in enumerate(hashes):
        members.setdefault(graph_hash, []).append(i)
    carry = 0.0  # carried over between families, so that small families also fill small sides
    for family in sorted(set(family_of.values())):
        groups = sorted(key for key, name in family_of.items() if name == family)
        for position, at in enumerate(rng.permutation(len(groups))):
            place = (position + 0.5 + carry) % len(groups) / len(groups)
            side = 2 if place < test else 1 if place < test + validation else 0
            sides[side].extend(members[groups[int(at)]])
        carry = (carry + rng.random()) % 1.0
    arrays = (np.array(sorted(side), dtype=np.int64) for side in sides)
    return Split("random", *arrays).check(hashes)


def leave_one_family_out(
    families: Sequence[str], hashes: Sequence[str], seed: int, validation: float = 0.1
) -> Iterator[Split]:
    """One split per family, with all of the family to test and the others to train.

    A graph that belongs to two families is left out of training when either is tested.

    Args:
        families: Family of each network.
        hashes: Content hash of each network.
        seed: Seed of the choice of validation networks, which come from the training families.
        validation: Share of the training families for validation.

    Raises:
        ConfigError: There are fewer than two families.
    """
    names = sorted(set(families))
    if len(names) < 2:
        raise ConfigError(
            f"leaving one family out needs at least two, got {names}: "
            "use --split random or label more families"
        )
    for name in names:
        test = [i for i, family in enumerate(families) if family == name]
        tested = {hashes[i] for i in test}
        others = [i for i, key in enumerate(hashes) if key not in tested]
        rest = random_split(
            [families[i] for i in others], [hashes[i] for i in others], seed, validation, validation
        )
        at = np.array(others, dtype=np.int64)
        train = np.sort(np.concatenate([at[rest.train], at[rest.test]]))
        yield Split(name, train, at[rest.validation], np.array(test)).check(hashes)
