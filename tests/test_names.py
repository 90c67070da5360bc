"""What nodes are called does not matter: ONNX lets several have one name, or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto

import onnx_reconvene as rc
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.inspection import inspection
from onnx_reconvene.process import isolated
from tests.nets import ALL, Net
from tests.oracle import random_mask
from tests.twins import renamed

Renaming = Callable[[NodeProto], str]
NAMELESS, ALIKE, DISTINCT = (lambda node: ""), (lambda node: node.op_type), (lambda node: "/".join(["node", *node.output]))


def facts(model: ModelProto) -> tuple[Any, ...]:
    """Return what is found in a network, and its random cut under no names."""
    graph = from_model(model)
    analysis = analyze(graph)
    cost = CostModel(analysis)
    groups = [(group.width, group.blocks, [(s.tensor, s.axis, s.units.tolist()) for s in group.sites]) for group in analysis.groups]
    keep = random_mask(analysis, np.random.default_rng(0))
    sizes = cost.all(analysis.widths(keep)), cost.macs_by_node(cost.dense), cost.macs_by_weight()
    frozen = [(frozen.tensor, frozen.channels) for frozen in analysis.frozen]
    cut(analysis, keep)
    return groups, sizes, frozen, renamed(to_model(graph), NAMELESS)


@pytest.mark.parametrize("net", ALL.values(), ids=ALL.keys())
def test_every_net_is_the_same_whatever_its_nodes_are_called(net: Net) -> None:
    assert facts(renamed(net.model, ALIKE)) == facts(renamed(net.model, DISTINCT))


OPTIONS: dict[str, dict[str, Any]] = {
    "resnet20": {"criterion": "taylor", "repair": "bn", "allocate": "global", "rectify": "none"},
    "mobilenetv2": {"criterion": "synflow", "allocate": "uniform", "verify": False},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_gives_the_same_network_and_the_same_figures(name: str, network: Callable[[str], ModelProto]) -> None:
    options = dict(OPTIONS[name])
    if "repair" in options:
        options["data"] = {"input": np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32)}
    runs = []
    for how in (DISTINCT, NAMELESS, ALIKE):
        result = rc.prune(renamed(network(name), how), **options)
        report = result.report
        groups = [(group.width, group.kept, group.sensitivity, group.sites) for group in report.groups]
        figures = report.before, report.after, report.score_kept, report.verify, report.repair
        runs.append((groups, figures, renamed(result.model, NAMELESS)))
    assert runs[0] == runs[1] == runs[2]


def test_shares_are_those_of_the_layers_of_a_group(network: Callable[[str], ModelProto]) -> None:
    def shares(how: Renaming) -> list[str]:
        text = inspection(analyze(from_model(renamed(network("resnet20"), how))), everything=True)
        return [line.split()[-2] for line in text.split("\n\n")[1].splitlines()[1:]]

    assert shares(ALIKE) == shares(DISTINCT)
    assert "100.0%" not in shares(ALIKE)


def test_patterns_match_names_that_one_node_has_and_else_first_outputs(network: Callable[[str], ModelProto]) -> None:
    model = renamed(network("resnet20"), ALIKE)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    analysis = analyze(from_model(model))
    assert analysis.matching(first.output[0]) == {analysis.groups[0].name} == {first.output[0]}
    with pytest.raises(rc.UsageError, match="matches no node"):
        analysis.matching("Conv")


def test_the_runtime_does_not_load_equal_names(network: Callable[[str], ModelProto]) -> None:
    """Which is why they are cleared wherever a network is run."""
    with pytest.raises(Exception, match="two nodes with same node name"):
        onnxruntime.InferenceSession(renamed(network("resnet20"), ALIKE).SerializeToString())


def test_equal_names_are_no_reason_to_call_a_model_invalid(file: Callable[..., Path], network: Callable[[str], ModelProto]) -> None:
    done = isolated("validate.py", str(file(renamed(network("resnet20"), ALIKE))))
    assert (done.returncode, done.stdout.strip()) == (0, "")
