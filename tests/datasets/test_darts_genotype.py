from __future__ import annotations

import pytest

from tvm_costmodel.datasets.darts_genotype import parse_genotype
from tvm_costmodel.errors import GraphError
from tvm_costmodel.nas.cells import darts_cell

NORMAL = "[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
NORMAL += "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)]"
REDUCE = NORMAL.replace("sep_conv_3x3", "max_pool_3x3")
TEXT = f"Genotype(normal={NORMAL}, normal_concat=[2, 3, 4, 5], reduce={REDUCE}, "
TEXT += "reduce_concat=[2, 3, 4, 5])"


def test_printed_genotypes_are_read() -> None:
    """The second-order cell of the paper's code, as code and as a log print it."""
    spread = TEXT.replace("[2, 3, 4, 5]", "range(2, 6)")
    for text in (TEXT, f"DARTS_V2 = {TEXT}", spread, TEXT.replace(", ", ",\n  ")):
        normal, reduction = parse_genotype(text)
        pairs = [(0, "sep_conv_3x3"), (1, "sep_conv_3x3")] * 2
        pairs += [(1, "sep_conv_3x3"), (0, "skip_connect"), (0, "skip_connect")]
        pairs.append((2, "dil_conv_3x3"))
        assert normal.hash == darts_cell(pairs).hash
        assert reduction.hash != normal.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no genotype"),
        ("Genotype(", "no genotype"),
        ("print('hello')", "no genotype"),
        (TEXT.replace("sep_conv_3x3", "magic"), "'magic', 0.* is no choice"),
        (TEXT.replace("('sep_conv_3x3', 0)", "'sep_conv_3x3'"), "is no choice"),
        (TEXT.replace("[2, 3, 4, 5]", "[3, 4, 5]", 1), "normal_concat is"),
        (TEXT.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 6)"), "state 5 reads state 6"),
        (TEXT.replace(", ('dil_conv_3x3', 2)", ""), "8 choices"),
        (TEXT.replace(NORMAL, "open('a')"), "no list of a genotype"),
    ],
)
def test_other_texts_are_refused_and_not_run(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_genotype(text)
