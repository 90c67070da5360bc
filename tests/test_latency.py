"""Latency: tables, prediction from layers, widths that meet a target, and what is measured on a device."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.allocate import Allocation, Limits, allocators, budgets, meet
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.errors import TargetError
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.latency import step as steps
from onnx_reconvene.latency.clock import job_for
from onnx_reconvene.latency.kernels import MOVING, MULTIPLYING, Work
from onnx_reconvene.latency.model import LatencyModel, Surface
from onnx_reconvene.latency.runtime import Runtime
from onnx_reconvene.latency.table import cached
from onnx_reconvene.target import parse_target
from tests.oracle import random_mask

ROOT = Path(__file__).parents[1]
CHAIN = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,16,8,8] x) => (float[1,16,8,8] y) { h = Conv(x, a)  r = Relu(h)  s = Conv(r, b)  t = Relu(s)  y = Conv(t, c) }"""
WEIGHTS = {"a": (64, 16, 1, 1), "b": (32, 64, 1, 1), "c": (16, 32, 1, 1)}


def made(kernel):
    """Return the elements that a convolution makes whose padding lets its stride divide the size of its input."""
    x, weight = kernel.operands[:2]
    stride = dict(kernel.attributes).get("strides", (1, 1))[0]
    return weight.shape[0] * (x.shape[2] // stride) * (x.shape[3] // stride) if kernel.op == "Conv" else 1e-9


def fake(price):
    """Return times that follow a function of the kernel, those of other work next to none."""
    return lambda kernels: {k: 1e-9 if k in (MOVING, MULTIPLYING) else price(k) for k in kernels}


@pytest.fixture
def chain(parsed):
    """Return three convolutions in a row."""
    return parsed(CHAIN, **WEIGHTS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps.channel_step.cache_clear()
    yield tmp_path / "onnx-reconvene"
    steps.channel_step.cache_clear()


def test_a_table_is_found_again_with_what_others_entered_meanwhile(cache):
    first, second = (cached(Runtime(1).setting) for _ in range(2))
    first.add({"a": 1.0})
    second.add({"b": 2.0})
    assert cached(Runtime(1).setting).values == {"a": 1.0, "b": 2.0}
    assert cached(Runtime(2).setting).values == {}
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "setting": {}, "values": {"a": "b"}}'])
def test_a_damaged_cache_is_as_good_as_none(cache, content):
    table = cached(Runtime(1).setting)
    table.add({"a": 1.0})
    Path(table.path).write_text(content)
    assert cached(Runtime(1).setting).values == {}
    cached(Runtime(1).setting).add({"b": 2.0})
    assert cached(Runtime(1).setting).values == {"b": 2.0}


def test_a_cache_that_cannot_be_written_changes_nothing(command, file, tmp_path):
    no_folder = file("resnet20", "in.onnx")  # a file: nothing can be written below it
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for out, place in zip(outs, (no_folder, tmp_path / "cache"), strict=True):
        assert command(no_folder, out, "--no-verify", XDG_CACHE_HOME=str(place)).status == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert list((tmp_path / "cache" / "onnx-reconvene").iterdir())


def test_the_step_is_that_of_padded_weights(cache, monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "_padded", lambda: asked.append(1) or 32)
    assert steps.channel_step() == 32
    steps.channel_step.cache_clear()
    assert steps.channel_step() == 32  # from the cache
    assert len(asked) == 1


def test_a_probe_that_fails_once_is_tried_again(cache, monkeypatch):
    found = iter([None, 32])
    monkeypatch.setattr(steps, "_padded", lambda: next(found))
    assert steps.channel_step() == steps.USUAL
    steps.channel_step.cache_clear()
    assert steps.channel_step() == 32


def test_the_runtime_tells_its_step(cache):
    step = steps.channel_step()
    assert step in (1, 2, 4, 8, 16, 32, 64)


def liked(model, target="channels=0.95"):
    """Return the widths that groups may have automatically, by name."""
    analysis = rc.analyze(model)
    within = next(budgets(CostModel(analysis), [parse_target(target)], Limits(0), lambda: None))
    return {group.name: widths.tolist() for group, widths in zip(analysis.groups, within.allowed, strict=True)}


@pytest.mark.parametrize(
    ("kernel", "channels", "expected"),
    [
        (3, 64, [16, 32, 48, 64]),
        (3, 24, [8, 16, 24]),
        (3, 40, [16, 32, 40]),
        (3, 8, [4, 8]),
        (3, 6, [1, 2, 3, 4, 5, 6]),
        (1, 24, [16, 24]),
        (1, 12, [4, 8, 12]),
    ],
)
def test_automatic_widths_are_those_that_kernels_like(parsed, blocks_of_16, kernel, channels, expected):
    weights = {"a": (channels, 16, 1, 1), "b": (32, channels, kernel, kernel), "c": (16, 32, 1, 1)}
    model = parsed(CHAIN.replace("float[1,16,8,8] y", "float[1,16,h,w] y"), **weights)
    assert next(iter(liked(model).values())) == expected


GROUPED = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
        h = Conv(x, a)  r = Relu(h)  s = Conv<group = 2, pads = [1, 1, 1, 1]>(r, b)  t = Relu(s)  y = Conv(t, c) }"""


@pytest.mark.parametrize(("each", "expected"), [(16, [16]), (32, [16, 32]), (5, [1, 2, 3, 4, 5])])
def test_the_groups_of_a_convolution_stay_whole_blocks(parsed, blocks_of_16, each, expected):
    model = parsed(GROUPED, a=(2 * each, 16, 1, 1), b=(2 * each, each, 3, 3), c=(16, 2 * each, 1, 1))
    assert list(liked(model, "channels=1").values()) == [expected] * 2


JOINED = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
        h = Conv(x, a)  i = Conv(x, b)  r = Concat<axis = 1>(h, i)  s = Relu(r)  y = Conv(s, c) }"""


def test_groups_that_share_an_axis_leave_it_aligned(parsed, blocks_of_16):
    model = parsed(JOINED, a=(58, 16, 1, 1), b=(6, 16, 1, 1), c=(16, 64, 1, 1))
    wide, narrow = liked(model).values()
    assert (wide, narrow) == ([10, 26, 42, 58], [2, 6])
    assert all((a + b) % 4 == 0 for a in wide for b in narrow)


def test_automatic_widths_are_finer_where_the_target_asks_for_it(chain, blocks_of_16):
    few = rc.prune(chain, target="channels=1/16", verify=False)
    assert few.report.after.params < 16 * (16 + 16)
    many = rc.prune(chain, target="channels=0.68", verify=False)
    assert all(group.kept % 16 == 0 for group in many.report.groups)


def test_a_surface_goes_through_what_was_measured():
    read, made_, times = np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0]), np.array([[1.0, 2.0], [3.0, 4.0], [2.0, 8.0]])
    surface = Surface.of(read, made_, times)
    rising = np.array([[1.0, 2.0], [3.0, 4.0], [3.0, 8.0]])  # less time for more work is noise
    for i, r in enumerate(read):
        assert [surface(r, m) for m in made_] == rising[i].tolist()
    assert surface(3.0, 15.0) == pytest.approx((3.0 + 4.0 + 3.0 + 8.0) / 4)
    assert surface(0.0, 0.0) >= 0


@pytest.mark.parametrize("name", ["resnet20", "unet"])
def test_prediction_adds_up_what_layers_take(network, name):
    """Where a layer takes as long as it makes elements, the network takes as long as all convolutions make elements."""
    model = network(name)
    analysis = analyze(from_model(model))
    predicted = LatencyModel(Work(analysis), fake(lambda k: float(made(k))))
    keep = random_mask(analysis, np.random.default_rng(0))
    widths = analysis.widths(keep)
    convolutions = {node.output[0]: node.op_type for node in model.graph.node if node.op_type == "Conv"}

    def counted(of):
        return sum(np.prod(of.shapes[name]) for name in convolutions)

    expected = predicted(predicted.dense)
    assert expected == pytest.approx(counted(analysis), rel=1e-6)
    cut(analysis, keep)
    after = analyze(from_model(to_model(analysis.graph)))
    assert predicted(widths) == pytest.approx(counted(after), rel=1e-6)


@pytest.mark.parametrize(
    ("weight", "outputs"),
    [((32, 1, 2, 2), 16), ((16, 2, 2, 2), 32), ((32, 4, 2, 2), 64)],
    ids=["two in, one out", "one in, two out", "two in, four out"],
)
def test_kernels_of_grouped_transposed_convolutions_are_those_of_the_cut_network(parsed, weight, outputs):
    groups, width = 16, 12
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,8,8,8] x) => (float[1,4,16,16] y) {
        h = Conv(x, a) r = Relu(h) s = ConvTranspose<group = 16, strides = [2, 2]>(r, b, c) t = Relu(s) y = Conv(t, d) }"""
    model = parsed(text, a=(weight[0], 8, 1, 1), b=weight, c=(outputs,), d=(4, outputs, 1, 1))
    work = Work(rc.analyze(model))
    widths = np.array([group.width * width // groups for group in work.analysis.groups])
    keep = {group.name: width / groups for group in work.analysis.groups}
    cut = rc.prune(model, target="channels=1", keep=keep, criterion="l1", rectify="none", round_to=1).model
    (node,) = [node for node in cut.graph.node if node.op_type == "ConvTranspose"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in cut.graph.initializer}
    sizes = work.axes(widths)
    (kernel,) = [layer.kernel(work.axes, sizes) for layer in work.layers if layer.node.op == "ConvTranspose"]
    assert [operand.shape for operand in kernel.operands[1:]] == [shapes[name] for name in node.input[1:]]
    assert dict(kernel.attributes)["group"] == next(a.i for a in node.attribute if a.name == "group")


def keys(model):
    """Return the keys of the whole network in tables."""
    analysis = rc.analyze(model)
    return set(job_for(analysis, lambda widths: None).networks)


def test_networks_that_may_take_another_time_have_keys_of_their_own(parsed):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[8,16] x) => (float[8,4] y) {
        h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"""
    single = parsed(text, a=(16, 32), b=(32, 4))
    double = onnx.parser.parse_model(text.replace("float[", "double["))
    for tensor in single.graph.initializer:
        double.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(float), tensor.name))
    loop = """<ir_version: 8, opset_import: ["": 17]> g (float[8,16] x) => (float[8,4] y) {
        n = Constant<value = int64 {STEPS}>() go = Constant<value = bool {1}>()
        z = Loop(n, go, x) <body = b (int64 i, bool c, float[8,16] v) => (bool d, float[8,16] w) { d = Identity(c) w = Tanh(v) }>
        h = MatMul(z, a) r = Relu(h) y = MatMul(r, b) }"""
    few, many = (parsed(loop.replace("STEPS", steps), a=(16, 32), b=(32, 4)) for steps in ("2", "400"))
    crossed = text.replace("y = MatMul(r, b)", "y = MatMul(h, b)")
    found = [keys(model) for model in (single, double, few, many, parsed(crossed, a=(16, 32), b=(32, 4)))]
    assert len(set.union(*found)) == len(found)
    assert keys(parsed(text, seed=1, a=(16, 32), b=(32, 4))) == found[0]


def test_a_network_that_computes_nothing(parsed, cache):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,8] x) => (float[8] y) {
        s = Constant<value_ints = [8]>() y = Reshape(x, s) }"""
    with pytest.raises(TargetError):
        rc.prune(parsed(text), target="latency=0.5", criterion="l1", allocate="uniform")


def chosen(analysis, target, price, allocate="latency", measure=None, **limits):
    """Return the widths that an allocator chooses where kernels take what price says."""
    model = LatencyModel(Work(analysis), fake(price))
    cost = CostModel(analysis, model)
    within = next(budgets(cost, [parse_target(t) for t in target], Limits(**limits), lambda: None))
    scores = np.ones(analysis.width)

    def run(within):
        return Allocation(allocators[allocate](analysis, scores, within))

    found = run(within) if measure is None else meet(within, run, lambda widths: measure(model(widths)))
    return cost, within, found.widths


def macs(kernel):
    """Return the multiply-accumulates of such a convolution."""
    return float(made(kernel) * np.prod(kernel.operands[1].shape[1:])) if kernel.op == "Conv" else 1e-9


@pytest.mark.parametrize("allocate", ["uniform", "latency", "global"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_predicted_latency_is_within_the_target_and_near_it(network, allocate, share):
    cost, within, widths = chosen(rc.analyze(network("resnet20")), [f"latency={share}"], macs, allocate)
    assert 0.97 * share <= cost("latency", widths) / cost("latency", cost.dense) <= share
    for group in range(len(widths)):
        wider = widths.copy()
        wider[group] = within.next(group, int(widths[group])) or wider[group]
        assert wider[group] == widths[group] or not within.holds(wider)


def test_where_all_layers_are_as_fast_all_keep_the_same_share(network):
    cost, _, widths = chosen(rc.analyze(network("resnet20")), ["macs=0.5"], macs)
    shares = widths / cost.dense
    assert shares.max() - shares.min() < 0.1


def test_slow_layers_lose_more(chain):
    def price(kernel):
        return macs(kernel) * (10 if kernel.operands[1].shape[:2] == (32, 64) or kernel.operands[0].shape[1] > 32 else 1)

    analysis = rc.analyze(chain)
    _, _, even = chosen(analysis, ["macs=0.5"], macs)
    cost, _, widths = chosen(analysis, ["macs=0.5"], price)
    wide = [group.width for group in analysis.groups].index(64)
    assert widths[wide] < even[wide]
    assert cost("latency", widths) < cost("latency", even)
    assert cost("macs", widths) <= 0.5 * cost("macs", cost.dense)


@pytest.mark.parametrize("off", [lambda ms: ms, lambda ms: 1.3 * ms, lambda ms: 0.6 * ms, lambda ms: 0.2 * 1e6 + 0.9 * ms])
def test_the_measured_network_is_within_the_target(network, off):
    analysis = rc.analyze(network("resnet20"))
    dense = LatencyModel(Work(analysis), fake(macs))(np.array([g.width for g in analysis.groups]))
    asked = 0.5 * dense
    cost, _, widths = chosen(analysis, [f"latency={asked}ms"], macs, measure=lambda ms: off(ms * dense / dense))
    assert 0.95 * asked <= off(cost("latency", widths)) <= asked


def test_other_targets_may_leave_latency_below_its_own(network):
    cost, _, widths = chosen(rc.analyze(network("resnet20")), ["latency=0.9", "macs=0.3"], macs, measure=lambda ms: ms)
    assert cost("macs", widths) <= 0.3 * cost("macs", cost.dense)


def test_a_latency_that_no_width_reaches(network):
    with pytest.raises(TargetError, match="best reachable"):
        chosen(rc.analyze(network("resnet20")), ["latency=0.5"], macs, measure=lambda ms: 1e12 + ms)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("latency=8ms", 8.0), ("latency=800us", 0.8), ("latency=1.5s", 1500.0), ("LATENCY = 2 ms", 2.0)]
)
def test_latency_in_units_of_time(text, milliseconds):
    target = parse_target(text)
    assert (target.value, target.relative) == (pytest.approx(milliseconds), False)


@pytest.mark.parametrize("text", ["latency=8", "latency=8MB", "memory=8ms", "latency=-1ms"])
def test_amounts_in_units_of_something_else(text):
    with pytest.raises(rc.errors.UsageError):
        parse_target(text)


@pytest.fixture
def measured(run, file, chain, tmp_path):
    """Return a network, and the table that is measured for it in a process that knows nothing of this package."""
    source, job, table = file(chain), tmp_path / "job.zip", tmp_path / "table.json"
    assert run(source, "--latency-job", job).status == 0
    words = [sys.executable, "-I", ROOT / "tools" / "measure_device.py", job, table, "--threads", "1"]
    subprocess.run([str(word) for word in words], check=True, timeout=120, cwd=tmp_path)
    return source, table


@pytest.mark.slow
def test_a_table_from_a_device_decides(run, measured, tmp_path):
    source, table = measured
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for out in outs:
        words = ["--target", "latency=0.7", "--latency-table", table, "--report", tmp_path / "r.json"]
        assert run(source, out, *words).status == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    report = json.loads((tmp_path / "r.json").read_text())
    known = json.loads(table.read_text())["values"]
    assert report["latency"]["before"] == next(value for key, value in known.items() if key.startswith("network"))
    assert report["latency"]["predicted"] <= 0.7 * report["latency"]["before"]
    assert report["latency"]["measured"] is None
    assert report["latency"]["threads"] == 1


@pytest.mark.slow
def test_a_table_that_lacks_a_layer(run, measured, tmp_path):
    source, table = measured
    content = json.loads(table.read_text())
    lacking = next(key for key in content["values"] if key.startswith("Conv"))
    del content["values"][lacking]
    table.write_text(json.dumps(content))
    ran = run(source, tmp_path / "o.onnx", "--target", "latency=0.7", "--latency-table", table)
    assert ran.status == 2
    assert lacking in ran.err
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", '{"version": 1, "setting": {}, "values": {"a": -1}}', '{"version": 1, "setting": {}, "values": {}}'],
)
def test_a_file_that_is_no_table(run, file, chain, tmp_path, content):
    table = tmp_path / "table.json"
    if content is not None:
        table.write_text(content)
    ran = run(file(chain), tmp_path / "o.onnx", "--target", "latency=0.7", "--latency-table", table)
    assert ran.status == 2
    assert str(table) in ran.err
    assert ran.err.count("\n") == 1


def test_a_provider_that_onnxruntime_lacks(run, file, chain, cache, tmp_path):
    ran = run(file(chain), tmp_path / "o.onnx", "--target", "latency=0.7", "--provider", "NoSuchExecutionProvider")
    assert ran.status == 2
    assert "--provider NoSuchExecutionProvider" in ran.err
    assert "CPUExecutionProvider" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.slow
def test_a_measured_target_is_met_and_found_again(run, file, cache, tmp_path):
    source, outs = file("resnet20"), [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    words = ["--target", "latency=0.6", "--threads", "1", "--report", tmp_path / "r.json"]
    for out in outs:
        assert run(source, out, *words).status == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    timing = json.loads((tmp_path / "r.json").read_text())["latency"]
    assert timing["measured"] <= 0.6 * timing["before"]
    assert onnx.load(outs[0]).graph.initializer
