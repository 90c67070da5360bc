"""Each derivative rule against slopes measured on the operator itself, and again for the gradients of the gradients."""

import pytest

from onnx_reconvene import gradients
from onnx_reconvene.autodiff.rules import RULES
from tests.derivatives import ALL, CASES, Case
from tests.derivatives.oracle import check, trainable, weighted


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_gradients_are_slopes(case: Case) -> None:
    feeds, names = case.feeds(), trainable(case.model)
    found = check(weighted(case.model, feeds), feeds, names, single=case.single)
    assert {name for name, gradient in found.items() if not gradient.any()} == case.zero


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_gradients_of_gradients_are_slopes(case: Case) -> None:
    feeds, names = case.feeds(), trainable(case.model)
    first = gradients(weighted(case.model, feeds), names, "loss")
    del first.graph.output[: -len(names)]
    check(weighted(first, feeds, "loss of gradients"), feeds, names, "loss of gradients", case.single, tolerance=1e-3)


def test_each_rule_has_a_case_that_uses_it() -> None:
    assert RULES.keys() == CASES.keys()
    for op, variants in CASES.items():
        for variant, case in variants.items():
            assert any(node.op_type == op for node in case.model.graph.node), f"{op}: {variant}"
