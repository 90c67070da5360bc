"""Each operator, twice: the channels found in a small network are those that one finds by thought, and cutting them is exact."""

import pytest

from onnx_reconvene.operators import OPERATORS
from tests.nets import ALL, NETS, Net, check_groups
from tests.oracle import check

SEEDS = range(4)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_groups_are_those_expected(net: Net) -> None:
    check_groups(net)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_random_cuts_are_exact(net: Net) -> None:
    cuts = [check(net.model, seed, spare_vectors=net.spare_vectors) for seed in SEEDS]
    if net.groups:
        assert all(cut.removed for cut in cuts)
        assert any(cut.noticed for cut in cuts)


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_has_a_net(op: str) -> None:
    assert NETS[op]
    for variant, net in NETS[op].items():
        assert op in {node.op_type for node in net.model.graph.node}, variant
