"""The networks of all derivative rules, by name of operator and variant."""

from tests.derivatives import channels, elementwise, movement, products, recurrent, reductions
from tests.derivatives.case import Case, Table

CASES: Table = {
    **channels.CASES,
    **elementwise.CASES,
    **movement.CASES,
    **products.CASES,
    **recurrent.CASES,
    **reductions.CASES,
}
ALL = {f"{op}: {variant}" if variant else op: case for op, variants in CASES.items() for variant, case in variants.items()}

__all__ = ["ALL", "CASES", "Case"]
