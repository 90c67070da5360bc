"""Each operator, twice: the channels found in a small network are those that one finds by thought, and cutting them is exact."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnx_reconvene.analysis import analyze
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.operators import FROZEN, OPERATORS
from tests.nets import ALL, NETS, Net, check_groups
from tests.nets.net import convs, in_constant_nodes, stays
from tests.oracle import check

SEEDS = range(4)


def through_identity(model: ModelProto) -> ModelProto:
    """Return model with each weight read through an Identity node."""
    result = ModelProto()
    result.CopyFrom(model)
    nodes = []
    for tensor in result.graph.initializer:
        nodes.append(helper.make_node("Identity", [f"{tensor.name}_stored"], [tensor.name]))
        tensor.name += "_stored"
    del result.graph.node[:]
    result.graph.node.extend([*nodes, *model.graph.node])
    return result


def listed_as_inputs(model: ModelProto) -> ModelProto:
    """Return model with its weights among the graph inputs, as IR version 3 demands."""
    result = ModelProto()
    result.CopyFrom(model)
    result.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    return result


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_groups_are_those_expected(net: Net) -> None:
    check_groups(net)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_random_cuts_are_exact(net: Net) -> None:
    for seed in SEEDS:
        found = check(net.model, seed, spare_vectors=net.spare_vectors)
        assert bool(found.removed) == bool(net.groups)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_one_unit_of_each_group_can_be_left(net: Net) -> None:
    analysis = analyze(from_model(net.model))
    keep = np.zeros(analysis.width, bool)
    for group in analysis.groups:
        group.by_block(keep)[:, 0] = True
    found = check(net.model, keep=keep, spare_vectors=net.spare_vectors)
    assert found.noticed != (net.silent or not net.groups)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_nothing_changes_where_nothing_is_removed(net: Net) -> None:
    graph = from_model(net.model)
    analysis = analyze(graph)
    cut(analysis, np.ones(analysis.width, bool))
    assert to_model(graph) == net.model


@pytest.mark.parametrize(
    ("gone", "nodes"), [([1, 5], ["Reshape", "Transpose", "Reshape"]), ([1, 2], ["Gather"]), ([0], ["Gather"])]
)
def test_shuffle_stays_where_its_blocks_lose_the_same_and_becomes_a_gather_elsewhere(gone: list[int], nodes: list[str]) -> None:
    keep = np.ones(8, bool)
    keep[gone] = False
    cut = check(ALL["Reshape: shuffle"].model, keep=keep)
    assert [node.op_type for node in cut.model.graph.node if node.op_type != "Constant"] == ["Conv", *nodes, "Conv"]


@pytest.mark.parametrize("variant", ["attribute left out", "input left out", "number of outputs"])
def test_split_gets_sizes_only_where_its_parts_lose_different_numbers(variant: str) -> None:
    for gone, given in ([0, 4], 0), ([0, 5, 6], 1):
        keep = np.ones(8, bool)
        keep[gone] = False
        split = next(node for node in check(ALL[f"Split: {variant}"].model, keep=keep).model.graph.node if node.op_type == "Split")
        assert len(split.input) - 1 + sum(a.name == "split" for a in split.attribute) == given


@pytest.mark.parametrize("form", [in_constant_nodes, through_identity, listed_as_inputs])
@pytest.mark.parametrize("name", ["Conv: depthwise", "Gemm: plain", "BatchNormalization", "Conv: shared weight"])
def test_weights_may_be_stored_in_any_form(name: str, form: Callable[[ModelProto], ModelProto]) -> None:
    model = form(ALL[name].model)
    widths = sorted((group.blocks, group.width) for group in analyze(from_model(model)).groups)
    assert widths == sorted((blocks, width) for blocks, width, _ in ALL[name].groups)
    for seed in SEEDS:
        assert check(model, seed).removed


def test_operators_of_unknown_domains_freeze_what_they_touch() -> None:
    reason = "Relu 'h': no rule is known for it"
    check_groups(convs("h = some.lab.Relu(a)", constants="float[2,8,6,6] h", outputs="float[2,5,6,6] y", **stays(reason)))


def test_operators_that_freeze_on_purpose_have_no_rule() -> None:
    assert not FROZEN.keys() & OPERATORS.keys()


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_has_a_net(op: str) -> None:
    assert NETS[op]
    for variant, net in NETS[op].items():
        assert op in {f"{n.domain}.{n.op_type}".lstrip(".") for n in net.model.graph.node}, variant
