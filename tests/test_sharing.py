"""Constants of one value that exporters store once for many readers tie nothing, and are stored once again after the cut."""

import numpy as np
import onnx
import pytest

import onnx_reconvene as rc
from onnx_reconvene.api import compare
from onnx_reconvene.errors import TargetError
from tests.nets.net import net

BODY = "a = Conv(x, w1, z) r = Relu(a) b = Conv(r, w2, z) s = Relu(b) y = Conv(s, w3)"
ZEROS = np.zeros(8, np.float32)


def model(z: np.ndarray, out: int = 5) -> onnx.ModelProto:
    return net(BODY, "", z=z, w1=(8, 3, 3, 3), w2=(8, 8, 3, 3), w3=(out, 8, 1, 1)).model


def sizes(found: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in found.graph.initializer}


@pytest.fixture
def halves():
    """Keep half of the first group, three quarters of the others."""

    @rc.allocator("halves")
    def halves(analysis, scores, within):
        return np.array([group.width * (3 if g else 2) // 4 for g, group in enumerate(analysis.groups)])

    return "halves"


def test_layers_that_share_zeros_lose_channels_of_their_own(halves):
    result = rc.prune(model(ZEROS), target="channels=1.0", allocate=halves)
    assert [(group.width, group.kept) for group in result.report.groups] == [(8, 4), (8, 6)]
    assert result.report.verify.status == "exact"
    found = sizes(result.model)
    assert sorted(shape for shape in found.values() if len(shape) == 1) == [(4,), (6,)]
    assert found["z"] == (4,)
    assert result.report.after.params == sum(int(np.prod(shape)) for shape in found.values())


def test_what_has_the_same_size_is_stored_once():
    result = rc.prune(model(ZEROS), target="channels=0.5", round_to=1)
    found = sizes(result.model)
    assert [name for name, shape in found.items() if len(shape) == 1] == ["z"]
    assert found["z"] == (4,)
    assert result.report.after.params == sum(int(np.prod(shape)) for shape in found.values())


def test_a_constant_of_several_values_ties_its_readers():
    assert [group.width for group in rc.analyze(model(np.arange(8, dtype=np.float32))).groups] == [8]


def test_nothing_changes_where_nothing_is_removed():
    given = model(ZEROS)
    assert rc.prune(given, target="channels=1.0").model == given


def test_a_frozen_reader_does_not_freeze_the_others():
    frozen = net("a = Conv(x, w1, z) r = Relu(a) y = Conv(r, w2, z)", "", z=ZEROS, w1=(8, 3, 3, 3), w2=(8, 8, 1, 1)).model
    result = rc.prune(frozen, target="channels=0.5", round_to=1)
    assert sizes(result.model) == {"z": (4,), "w1": (4, 3, 3, 3), "w2": (8, 4, 1, 1), "z_2": (8,)}
    with pytest.raises(TargetError):
        rc.prune(frozen, target="channels=0.01", round_to=1)


def test_a_cut_of_them_is_recognized(halves):
    result = rc.prune(model(ZEROS), target="channels=1.0", allocate=halves)
    assert compare(model(ZEROS), result.model).verdict.status == "exact"


def test_passes_one_by_one_give_the_same():
    step = model(ZEROS)
    for each in (rc.passes.Load(), rc.passes.Score(), rc.passes.Allocate("channels=0.5", round_to=1)):
        step = each(step).model
        assert sizes(step) == sizes(model(ZEROS))
    assert sizes(rc.passes.Cut()(step).model) == sizes(rc.prune(model(ZEROS), target="channels=0.5", round_to=1).model)


def test_sizes_count_what_is_in_the_file_where_weights_were_computed():
    body = "n = ReduceL2<axes = [1,2,3]>(v) d = Div(v, n) w1 = Mul(d, g) a = Conv(x, w1) r = Relu(a) y = Conv(r, w2)"
    given = net(body, "", opset=13, v=(8, 3, 3, 3), g=(8, 1, 1, 1), w2=(5, 8, 1, 1)).model
    result = rc.prune(given, target="channels=0.5", round_to=1)
    for counted, stored in ((result.report.before, given), (result.report.after, result.model)):
        assert counted.params == sum(int(np.prod(shape)) for shape in sizes(stored).values())
