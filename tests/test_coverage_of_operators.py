"""Every operator of the standard has a rule, or is frozen by name and with a reason."""

from __future__ import annotations

import onnx
import pytest

from onnx_reconvene.operators import FROZEN, OPERATORS

STANDARD = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


@pytest.mark.parametrize("name", [name for name in STANDARD if name != "Constant"])  # whose output is a weight
def test_it_has_a_rule_or_a_reason(name: str) -> None:
    assert (name in OPERATORS) != (name in FROZEN)


def test_reasons_are_for_operators_that_exist() -> None:
    assert set(FROZEN) <= set(STANDARD)
