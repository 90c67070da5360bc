"""Equal labels live and die together: components against scipy, and what freezes them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array, csgraph

from onnx_reconvene.labels import Equalities, Labels, Solution, connected_components

COUNT = 12
LABEL = st.integers(0, COUNT - 1)
EDGES = st.lists(st.tuples(LABEL, LABEL), max_size=20)


def by_scipy(count: int, edges: list[tuple[int, int]]) -> Labels:
    """Return a component number per label, as scipy finds them."""
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    _, component = csgraph.connected_components(coo_array((np.ones(left.size), (left, right)), (count, count)), directed=False)
    return component


def together(component: Labels) -> Labels:
    """Return for each pair of labels whether they are in one component."""
    return component[:, None] == component[None, :]


@given(EDGES)
def test_components_are_those_of_scipy(edges: list[tuple[int, int]]) -> None:
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    found = connected_components(COUNT, left, right)
    np.testing.assert_array_equal(together(found), together(by_scipy(COUNT, edges)))
    assert sorted(set(found.tolist())) == list(range(found.max() + 1))


def test_long_chain_is_one_component() -> None:
    chain = np.random.default_rng(0).permutation(50_000)
    assert connected_components(chain.size, chain[:-1], chain[1:]).max() == 0


def test_no_labels_have_no_components() -> None:
    none = np.empty(0, np.int64)
    assert connected_components(0, none, none).size == 0
    assert Equalities().solve().free.size == 0


@given(EDGES, st.lists(LABEL, max_size=3))
def test_just_the_components_with_a_frozen_label_stay(edges: list[tuple[int, int]], frozen: list[int]) -> None:
    equalities = Equalities()
    labels = equalities.fresh(COUNT)
    for a, b in edges:
        equalities.equate(labels[[a]], labels[[b]])
    for a in frozen:
        equalities.freeze(labels[[a]], f"because of {a}")
    solution = equalities.solve()
    stays = together(by_scipy(COUNT, edges))[:, frozen].any(1)
    np.testing.assert_array_equal(solution.why(labels) >= 0, stays)
    assert set(solution.free.tolist()) == set(solution.of(labels)[~stays].tolist())


def test_the_reason_recorded_first_is_told() -> None:
    equalities = Equalities()
    a, b, c = equalities.fresh(3), equalities.fresh(3), equalities.fresh(3)
    equalities.freeze(c[1:], "the first")
    equalities.freeze(a[2:], "the second")
    equalities.equate(a, b)
    equalities.equate(b, c)
    solution = equalities.solve()
    assert [solution.reasons[r] if r >= 0 else None for r in solution.why(a)] == [None, "the first", "the first"]


def test_frozen_labels_keep_reasons_of_their_own() -> None:
    equalities = Equalities()
    one, two = equalities.frozen(2, "one"), equalities.frozen(2, "two")
    equalities.equate(one, two)
    solution = equalities.solve()
    assert [solution.reasons[r] for r in solution.why(np.concatenate([one, two]))] == ["one", "one", "two", "two"]
    assert (solution.of(one) == -1).all()


def test_labels_broadcast_when_they_are_equated() -> None:
    equalities = Equalities()
    rows, row = equalities.fresh(6).reshape(2, 3), equalities.fresh(3)
    equalities.equate(rows, row)
    component = equalities.solve().component
    assert component[:3].tolist() == component[3:6].tolist() == component[6:].tolist()
    assert len(set(component.tolist())) == 3


def test_inexact_speaks_of_whole_components() -> None:
    equalities = Equalities()
    a, b = equalities.fresh(2), equalities.fresh(2)
    equalities.equate(a, b)
    equalities.inexact(np.concatenate([b[:1], equalities.frozen(1, "frozen")]), "a norm")
    solution = equalities.solve()
    assert solution.inexact == {int(solution.of(a)[0]): "a norm"}


def test_a_block_of_which_another_operator_reads_a_part_is_one_block() -> None:
    read = np.array([[0, 1, 2], [3, 4, 5]]), np.array([[-24, 1, 2], [3, 4, 5]])
    each = np.arange(6)
    assert Solution(each, each, read, np.full(6, -1), (), {}).block_of_label.tolist() == [0, 0, 0, 1, 1, 1, -1]
