"""Samples, losses and warm-up: what criteria with data are given, and how it is refused."""

import json
import sys
import tracemalloc

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
from onnx import helper, parser
from onnx.numpy_helper import from_array, to_array

import onnx_reconvene as rc
import onnx_reconvene.passes
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration, Objective
from onnx_reconvene.calibration.data import Data, Input
from onnx_reconvene.report import summary
from onnx_reconvene.saliency import AGGREGATES, Context, SiteScores, combined
from tests.nets import ALL

GRADIENT = ["snip", "grasp", "taylor", "fisher", "hutchinson"]
WITH_DATA = [*GRADIENT, "activation-mean", "activation-apoz"]
IMAGE = [Input("x", (None, 3, 8, 8), np.dtype(np.float32))]


@pytest.fixture
def model(parsed):
    """A classifier of small images, trained as far as one can tell."""
    model = parsed(
        """<ir_version: 9, opset_import: ["" : 18]> net (float[n,3,8,8] x) => (float[n,4] logits) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Relu (a)
            c = Conv <strides = [2, 2]> (b, w2)
            d = Relu (c)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            logits = Gemm <transB = 1> (f, w3)
        }""",
        w1=(6, 3, 3, 3),
        b1=(6,),
        w2=(8, 6, 3, 3),
        w3=(4, 8),
    )
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(0.2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    return model


@pytest.fixture
def arrays():
    """Ten samples with labels."""
    rng = np.random.default_rng(5)
    return {"x": rng.standard_normal((10, 3, 8, 8), dtype=np.float32), "labels": rng.integers(0, 4, 10)}


def scores(model, criterion, data, seed=0, **options):
    """Return what a criterion says of the network on data."""
    graph, _ = open_model(model)
    score = rc.passes.Score(criterion, seed, options.pop("aggregate", "sum"), Calibration(data, **options))
    rc.passes.Sequential(rc.passes.Load(), score).run(graph)
    return graph.notes.scores


# --- data ------------------------------------------------------------------------------------------------------------


def samples_of(directory):
    """A function of a module that yields single samples as dicts."""
    (directory / "some_samples.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    data = np.load(__file__.replace('some_samples.py', 'in.npz'))\n"
        "    for x, label in zip(data['x'], data['labels']):\n"
        "        yield {'x': x, 'labels': label}\n"
    )
    return "some_samples:samples"


def test_every_kind_of_source_gives_the_same_scores(model, arrays, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    np.savez(tmp_path / "in.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    batches = [{name: array[k : k + 3] for name, array in arrays.items()} for k in range(0, 10, 3)]
    pairs = [(b["x"], b["labels"]) for b in batches]
    sources = [str(tmp_path / "in.npz"), tmp_path / "packed.npz", arrays, batches, pairs, lambda: iter(pairs), samples_of(tmp_path)]
    found = [scores(model, "fisher", source, batch_size=4) for source in sources]
    assert (found[0] > 0).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    sys.modules.pop("some_samples")


def test_what_comes_with_a_single_sample_may_have_axes_of_its_own(model, arrays):
    """Shares of classes, say."""
    shares = np.random.default_rng(0).random((10, 4)).astype(np.float32)

    def loss(outputs, data):
        difference = outputs["logits"] - data["shares"]
        return (difference * difference).mean([0, 1], keepdims=False)

    x = arrays["x"]
    single = [{"x": one, "shares": share} for one, share in zip(x, shares, strict=True)]
    found, expected = (scores(model, "taylor", data, batch_size=5, loss=loss) for data in (single, {"x": x, "shares": shares}))
    np.testing.assert_array_equal(found, expected)


def test_an_array_is_the_only_input(model, arrays, tmp_path):
    np.save(tmp_path / "x.npy", arrays["x"])
    expected = scores(model, "activation-mean", arrays)
    np.testing.assert_array_equal(scores(model, "activation-mean", str(tmp_path / "x.npy")), expected)
    np.testing.assert_array_equal(scores(model, "activation-mean", arrays["x"]), expected)


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_the_size_of_batches_does_not_matter(model, arrays, criterion):
    whole, parts = (scores(model, criterion, arrays, batch_size=size) for size in (10, 3))
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", ["float16", "double"])
@pytest.mark.parametrize("criterion", [*WITH_DATA, "grasp"])
def test_networks_of_other_precision(parsed, criterion, kind, labelled):
    dtype = {"float16": np.float16, "double": np.float64, "float": np.float32}
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((6, 8)), "b": rng.standard_normal(8), "v": rng.standard_normal((8, 3))}
    x, labels = rng.standard_normal((7, 6)), rng.integers(0, 3, 7)
    found = []
    for own in ("float", kind):
        body = "{ h = Gemm (x, w, b) r = Relu (h) y = Gemm (r, v) }"
        model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net ({own}[n,6] x) => ({own}[n,3] y) {body}')
        model.graph.initializer.extend(from_array(values.astype(dtype[own]), name) for name, values in weights.items())
        data = {"x": x.astype(dtype[own]), **({"labels": labels} if labelled else {})}
        found.append(scores(model, criterion, data, batch_size=4))
    np.testing.assert_allclose(found[1], found[0], atol=(2e-2 if kind == "float16" else 1e-6) * np.abs(found[0]).max())


def test_sums_over_more_positions_than_half_precision_can_count(parsed):
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float16[n,1,300,300] x) => (float16[n,2] y)'
    body = "{ h = Conv (x, w) r = Relu (h) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, v) }"
    model = parsed(f"{head} {body}")
    weights = {"w": np.ones((3, 1, 1, 1), np.float16), "v": np.ones((3, 2), np.float16)}
    model.graph.initializer.extend(from_array(values, name) for name, values in weights.items())
    found = scores(model, "taylor", np.ones((1, 1, 300, 300), np.float16), loss="squared-norm")
    np.testing.assert_allclose(found, (12 + 12) ** 2, rtol=1e-3)


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_scores_depend_on_the_seed_alone(model, arrays, criterion):
    first, again = (scores(model, criterion, arrays["x"], seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    drawn = criterion in GRADIENT  # classes, and probes
    assert np.array_equal(first, scores(model, criterion, arrays["x"], seed=4)) != drawn


def test_as_many_samples_as_asked_for(model, arrays):
    few = {name: array[:4] for name, array in arrays.items()}
    np.testing.assert_allclose(scores(model, "snip", arrays, samples=4), scores(model, "snip", few), rtol=1e-6)
    assert not np.allclose(scores(model, "snip", arrays), scores(model, "snip", few))


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_does_not_grow_with_samples(tmp_path, compressed):
    big = np.zeros((4000, 3, 8, 8), np.float32)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "big.npz", x=big)
    tracemalloc.start()
    data = Data(str(tmp_path / "big.npz"), IMAGE)
    count = sum(len(batch["x"]) for batch in data.batches(16, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < big.nbytes / 4


WRONG = {
    "no such input": ({"y1": np.zeros((2, 3, 8, 8), np.float32), "z": np.zeros(2)}, "not the input 'x'"),
    "shape": (np.zeros((2, 3, 9, 8), np.float32), "nx3x9x8, but the network takes nx3x8x8"),
    "rank": (np.zeros((2, 3), np.float32), "shape nx3,"),
    "pixels": (np.zeros((2, 3, 8, 8), np.uint8), "uint8, but the network takes float32; scale it"),
    "nan": (np.full((2, 3, 8, 8), np.nan, np.float32), "NaN or infinity"),
    "none": (np.zeros((0, 3, 8, 8), np.float32), "no samples"),
    "labels too large": ((np.zeros((2, 3, 8, 8), np.float32), np.array([0, 4])), "from 0 to 4, but the network has 4 classes"),
    "fractional labels": ({"x": np.zeros((2, 3, 8, 8), np.float32), "labels": np.array([0.5, 1])}, "classes as integers"),
    "as many": ({"x": np.zeros((2, 3, 8, 8), np.float32), "labels": np.zeros(3, int)}, "as many samples"),
    "once": (iter([]), "read but once"),
    "nothing of the kind": (3, "int is no path"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_explained_in_a_line(model, case):
    data, reason = WRONG[case]
    source = [data] if isinstance(data, tuple) else data
    with pytest.raises(rc.UsageError, match=reason) as raised:
        scores(model, "taylor", source)
    assert "\n" not in str(raised.value)


MODULES = {
    "nothing": ("def samples():\n    return None", "TypeError: 'NoneType'"),
    "an argument": ("def samples(count):\n    return []", "TypeError: samples() missing"),
    "an import that fails": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a program": ("import sys\nsys.exit()", "SystemExit"),
    "a slip": ("def samples():\n    yield {'x': ones(3, 8, 8)}", "NameError: name 'ones'"),
    "lines": ("def samples():\n    raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
    "no array": ("def samples():\n    yield [[1], [2, 3]], 1, 2", "yields 3 arrays"),
    "ragged": ("def samples():\n    yield {'x': [[1], [2, 3]]}", "ValueError: setting an array"),
}


@pytest.mark.parametrize("case", MODULES)
def test_functions_that_fail_are_named(model, run, file, tmp_path, monkeypatch, case):
    text, reason = MODULES[case]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    (tmp_path / "failing.py").write_text(text)
    ran = run(file(model), "--dry-run", "--criterion", "taylor", "--data", "failing:samples")
    assert ran.status == 2
    assert ran.err.startswith(f"onnx-reconvene: --data failing:samples: {reason}")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("flipped", ["a value", "the directory", "all"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_damaged_files_are_named(model, run, file, arrays, tmp_path, suffix, flipped):
    path = tmp_path / f"in.{suffix}"
    (np.savez if suffix == "npz" else np.save)(path, arrays["x"])
    content = bytearray(path.read_bytes())
    for at in {"a value": [5000], "the directory": [len(content) - 20], "all": range(len(content))}[flipped]:
        content[at] ^= 0xFF
    path.write_bytes(content)
    ran = run(file(model), "--dry-run", "--criterion", "taylor", "--data", path)
    if suffix == "npz" or flipped == "all":  # nothing tells that a value of an array is wrong
        assert ran.status == 2
        assert ran.err.startswith(f"onnx-reconvene: --data {path}: ")
        assert ran.err.count("\n") == 1


def test_unscaled_data_are_remarked_upon(model, arrays):
    result = rc.prune(model, criterion="taylor", data=100 * arrays["x"], verify=False)
    assert any("is it scaled" in remark for remark in result.report.data["remarks"])


@pytest.mark.parametrize("gradients", ["ort", "torch"])
@pytest.mark.parametrize("criterion", ["snip", "taylor"])
def test_layers_before_signs_are_remarked_upon(model, arrays, gradients, criterion):
    if gradients == "torch":
        pytest.importorskip("torch")
    assert not any("gradients are zero" in remark for remark in pruned(model, arrays, criterion, gradients))
    model.graph.node[3].op_type = "Sign"
    (remark,) = [remark for remark in pruned(model, arrays, criterion, gradients) if "gradients are zero" in remark]
    assert "'w1'" in remark or "'a'" in remark


@pytest.mark.parametrize("criterion", rc.criteria)
def test_a_network_of_which_nothing_can_be_removed(parsed, criterion):
    model = parsed('<ir_version: 9, opset_import: ["" : 18]> net (float[n,4] x) => (float[n,3] y) { y = MatMul (x, w) }', w=(4, 3))
    with pytest.raises(rc.TargetError, match="no channel can be removed"):
        rc.prune(model, criterion=criterion, data=np.ones((2, 4), np.float32) if rc.criteria[criterion].needs_data else None)


def pruned(model, arrays, criterion, gradients):
    """Return the remarks on pruning a network."""
    return rc.prune(model, criterion=criterion, data=arrays, gradients=gradients).report.data["remarks"]


def test_a_network_that_takes_batches_of_one_size(model, arrays):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    result = rc.prune(model, criterion="fisher", data=arrays, verify=False)
    assert (result.report.data["samples"], result.report.data["batch_size"]) == (8, 4)
    assert any("2 samples are left out" in remark for remark in result.report.data["remarks"])
    with pytest.raises(rc.UsageError, match="batches of 4 only"):
        rc.prune(model, criterion="fisher", data=arrays, batch_size=2)


def test_folders_of_images(model, tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for k in range(2):
        image.fromarray(pixels[k]).save(tmp_path / f"{k}.png")
    standardized = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    data = Data(str(tmp_path), IMAGE, {"resize": "8"})
    (batch,) = data.batches(4, 10)
    np.testing.assert_allclose(batch["x"], standardized.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert data.remarks == ["images: resize 8, crop 8x8, mean 0.485/0.456/0.406, std 0.229/0.224/0.225, order rgb"]
    own = {"resize": "8", "order": "bgr", "mean": "0,0,0", "std": "1,1,1"}
    (batch,) = Data(str(tmp_path), IMAGE, own).batches(4, 10)
    np.testing.assert_allclose(batch["x"], pixels[..., ::-1].transpose(0, 3, 1, 2) / 255, rtol=1e-5)
    with pytest.raises(rc.UsageError, match="crop=9x9: the network takes 8x8"):
        Data(str(tmp_path), IMAGE, {"crop": "9"})


LAYOUTS = {
    "images": "h = Conv (x, w) r = Relu (h) y = Conv (r, v)",
    "tokens": "t = Reshape (x, rows) h = MatMul (t, w) r = Relu (h) y = Gemm <transB = 1> (r, v)",
    "sequence first": "t = Transpose <perm = [1, 0, 2]> (x) h = MatMul (t, w) r = Relu (h) y = MatMul (r, v)",
    "tokens, sequence first": """s = Transpose <perm = [1, 0, 2]> (x) t = Reshape (s, rows)
        h = MatMul (t, w) r = Relu (h) y = Gemm <transB = 1> (r, v)""",
    "windows": "t = Reshape (x, pairs) h = MatMul (t, w) r = Relu (h) y = MatMul (r, v)",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_told_apart_wherever_they_lie(parsed, layout):
    """The squares that fisher averages are those of samples, not of batches."""
    out = {"images": "n,3,6,1", "tokens": "m,3", "tokens, sequence first": "m,3", "windows": "m,2,3"}.get(layout, "4,n,3")
    rank = "float[n,4,6,1] x" if layout == "images" else "float[n,4,6] x"
    weights = {"images": ((8, 4, 1, 1), (3, 8, 1, 1)), "tokens": ((6, 8), (3, 8)), "tokens, sequence first": ((6, 8), (3, 8))}.get(
        layout, ((6, 8), (8, 3))
    )
    shapes = "int64[2] rows = {-1, 6}, int64[3] pairs = {-1, 2, 6}"
    head = f'<ir_version: 9, opset_import: ["" : 18]> net ({rank}) => (float[{out}] y) <{shapes}>'
    model = parsed(f"{head} {{ {LAYOUTS[layout]} }}", w=weights[0], v=weights[1])
    x = np.random.default_rng(1).standard_normal((8, 4, 6, 1) if layout == "images" else (8, 4, 6)).astype(np.float32)
    together, apart = (scores(model, "fisher", x, batch_size=size, loss="squared-norm") for size in (8, 1))
    np.testing.assert_allclose(together, apart, rtol=1e-4)
    assert scores(model, "taylor", x, loss="squared-norm").shape == (8,)
    seen = rc.prune(model, criterion="fisher", data=x, loss="squared-norm", batch_size=8, verify=False).report.data
    assert seen["batch_size"] == (1 if layout == "tokens, sequence first" else 8)


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("layout", ["tokens", "tokens, sequence first", "sequence first"])
def test_samples_are_told_apart_in_batches_of_one_size(parsed, layout, batch_size):
    """As many of them as there are tokens, even."""

    def network(n):
        out = f"4,{n},3" if layout == "sequence first" else "m,3"
        head = f'<ir_version: 9, opset_import: ["" : 18]> net (float[{n},4,6] x) => (float[{out}] y) <int64[2] rows = {{-1, 6}}>'
        return parsed(f"{head} {{ {LAYOUTS[layout]} }}", w=(6, 8), v=(8, 3) if layout == "sequence first" else (3, 8))

    x = np.random.default_rng(1).standard_normal((8, 4, 6)).astype(np.float32)
    if layout == "tokens, sequence first":
        with pytest.raises(rc.UsageError, match=f"cannot be told apart at 'h' in batches of {batch_size}"):
            scores(network(batch_size), "fisher", x, loss="squared-norm")
    else:
        fixed, free = (scores(network(n), "fisher", x, loss="squared-norm") for n in (batch_size, "n"))
        np.testing.assert_allclose(fixed, free, rtol=1e-4)


def test_samples_that_are_all_alike_go_one_by_one(parsed):
    """Nothing tells which rows are whose."""
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,4,6] x) => (float[m,3] y) <int64[2] rows = {-1, 6}>'
    model = parsed(f"{head} {{ {LAYOUTS['tokens']} }}", w=(6, 8), v=(3, 8))
    same = np.ones((4, 4, 6), np.float32)
    seen = rc.prune(model, criterion="fisher", data=same, loss="squared-norm", verify=False).report.data
    assert seen["batch_size"] == 1
    assert any("one by one: in batches they cannot be told apart at 'h'" in remark for remark in seen["remarks"])


def test_a_layer_counts_by_its_mean_over_all_samples_whatever_the_batches(parsed):
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,4] x) => (float[n,3] y)'
    model = parsed(f"{head} {{ h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }}", w=(4, 8), v=(8, 3))
    x = np.random.default_rng(1).standard_normal((16, 4)).astype(np.float32) * np.linspace(0.1, 3, 16, dtype=np.float32)[:, None]
    analysis = rc.analyze(model)
    found = []
    for size in (16, 4, 1):
        given = Calibration(x, batch_size=size, loss="squared-norm")
        own = Objective(analysis.graph, analysis.sizes, given)
        found.append(rc.criteria["fisher"].score(analysis, Context(aggregate="normalized", make_objective=lambda own=own: own)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


BRANCHES = """k = ReduceMax <keepdims = 0> ({0}) one = Constant <value_float = 1.0> () q = Greater (k, one)
    {1} = If (q) <then_branch = t () => (float[n,{2}] t) {{ t = Relu ({0}) }},
                  else_branch = e () => (float[n,{2}] e) {{ m = Neg ({0}) s = Neg (m) e = Relu (s) }}>"""


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_maps_behind_control_flow_are_seen(parsed, criterion):
    head, tail = (
        '<ir_version: 9, opset_import: ["" : 18]> net (float[n,4] x) => (float[n,3] y)',
        "h = MatMul (p, w) y = MatMul (h, v)",
    )
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    bodies = ("p = Relu (x)", BRANCHES.format("x", "p", 4))
    plain, branched = (parsed(f"{head} {{ {body} {tail} }}", w=(4, 8), v=(8, 3)) for body in bodies)
    found, expected = (scores(model, criterion, x, batch_size=4, loss="squared-norm") for model in (branched, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_maps_within_control_flow_are_not_seen(model, arrays):
    remark = "7 channels show in no feature map"
    inside = ALL["Loop: two layers inside"].model
    sample = {
        value.name: np.ones([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32) for value in inside.graph.input
    }
    found = [
        rc.prune(m, criterion="activation-mean", data=x, verify=False).report.data for m, x in ((inside, sample), (model, arrays))
    ]
    assert [any(text.startswith(remark) for text in data["remarks"]) for data in found] == [True, False]


@pytest.mark.parametrize("criterion", GRADIENT)
def test_gradients_do_not_pass_control_flow(parsed, criterion):
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,4] x) => (float[n,3] y)'
    model = parsed(f"{head} {{ h = MatMul (x, w) {BRANCHES.format('h', 'p', 8)} y = MatMul (p, v) }}", w=(4, 8), v=(8, 3))
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    with pytest.raises(rc.ModelError, match="gradients do not pass If 'p': choose a --criterion without"):
        scores(model, criterion, x, loss="squared-norm")


def test_sequences_are_passed_over(parsed):
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,4] x) => (float[n,3] y)'
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    bodies = "p = Relu (x)", "s = SequenceConstruct (x, x) i = Constant<value_int = 0> () e = SequenceAt (s, i) p = Relu (e)"
    plain, passed = (parsed(f"{head} {{ {body} h = MatMul (p, w) y = MatMul (h, v) }}", w=(4, 8), v=(8, 3)) for body in bodies)
    found, expected = (scores(model, "taylor", x, loss="squared-norm") for model in (passed, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


PICKED = "i = Compress <axis = 0> (r, q) h = MatMul (i, w) y = MatMul (h, v)"
MASKED = "m = Cast <to = 1> (q) u = Unsqueeze (m, one) i = Mul (r, u) h = MatMul (i, w) y = MatMul (h, v)"


@pytest.mark.parametrize("criterion", ["snip", "taylor", "fisher", "grasp"])
def test_gradients_pass_sizes_that_depend_on_data(parsed, criterion):
    """Rows that are left out count as rows of zeros do."""
    constants = "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, float none = {0.0}>"
    head = f'<ir_version: 9, opset_import: ["" : 18]> net (float[1,6,4] x) => (float[k,3] y) {constants}'
    rows = "s = ReduceSum <keepdims = 0> (x, two) t = Squeeze (s, zero) q = Greater (t, none) r = Squeeze (x, zero)"
    x = np.random.default_rng(1).standard_normal((5, 6, 4)).astype(np.float32)
    x[2] = -1  # of which no row is left
    found, expected = (
        scores(parsed(f"{head} {{ {rows} {body} }}", w=(4, 8), v=(8, 3)), criterion, x, loss="squared-norm")
        for body in (PICKED, MASKED)
    )
    assert (expected != 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- losses ----------------------------------------------------------------------------------------------------------


def objective(model, data, **options):
    """Return the loss of a network on data."""
    graph, _ = open_model(model)
    return Objective(graph, {}, Calibration(data, **options))


def slopes(model, data, **options):
    """Return the gradient of the loss by one weight."""
    return objective(model, data, **options).mean_gradients(["w3"])["w3"]


def features_and_logits(model, arrays):
    """Return what the last layer reads and makes, [samples, 8] and [samples, 4]."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, None))
    logits, features = onnx.reference.ReferenceEvaluator(copy).run(None, {"x": arrays["x"]})
    return features.astype(np.float64), logits.astype(np.float64)


def test_labels_mean_cross_entropy(model, arrays):
    features, logits = features_and_logits(model, arrays)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = (p - np.eye(4)[arrays["labels"]]).T @ features / 10
    np.testing.assert_allclose(slopes(model, arrays), expected, rtol=1e-3, atol=1e-5)
    soft = {"x": arrays["x"], "labels": np.eye(4, dtype=np.float32)[arrays["labels"]]}
    np.testing.assert_allclose(slopes(model, soft), expected, rtol=1e-3, atol=1e-5)


def test_cross_entropy_looks_through_softmax(model, arrays):
    expected = slopes(model, arrays)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    model.graph.output[0].name = "p"
    np.testing.assert_allclose(slopes(model, arrays), expected, rtol=1e-4, atol=1e-6)


def test_without_labels_classes_are_drawn_from_the_network(model, arrays):
    """Over many draws the gradient vanishes and its square does not: that is the Fisher information."""
    draws = {"x": np.repeat(arrays["x"][:1], 4000, 0)}
    found = objective(model, draws, samples=4000, batch_size=4000)
    assert "drawn" in found.loss.name
    features, logits = features_and_logits(model, draws)
    p = np.exp(logits[0] - logits[0].max())
    p /= p.sum()
    mean = found.mean_gradients(["w3"])["w3"]
    spread = np.sqrt(p * (1 - p))[:, None] * np.abs(features[0]) / np.sqrt(4000)
    assert (np.abs(mean) <= 5 * spread + 1e-6).all()
    assert np.abs(slopes(model, arrays["x"])).max() > 1e-3


def test_outputs_that_are_no_logits_are_squared(model, arrays):
    model.graph.node.append(helper.make_node("Unsqueeze", ["logits", "axes"], ["y"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1, 4]))
    found = objective(model, arrays["x"])
    logits, features = onnx.reference.ReferenceEvaluator(model).run(["logits", "f"], {"x": arrays["x"]})
    expected = 2 * logits.reshape(10, 4).T @ features / 10
    assert found.loss.name == "squared norm of the outputs"
    np.testing.assert_allclose(found.mean_gradients(["w3"])["w3"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [None, "squared-norm"])
def test_a_network_without_an_output_to_differentiate(model, arrays, loss):
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["class"], axis=1))
    model.graph.node.append(helper.make_node("ReduceSum", ["logits"], ["whole"], keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["n", 1]))
    with pytest.raises(rc.UsageError, match="--loss: no output of the network is floating-point"):
        slopes(model, arrays["x"], loss=loss)
    assert slopes(model, arrays["x"], loss="whole").any()


def mean_square(outputs, data):
    """Half the mean squared distance of the logits to a target."""
    difference = outputs["logits"] - data["wanted"]
    return (difference * difference).sum([0, 1], keepdims=False) * 0.05


LOSS = """<ir_version: 9, opset_import: ["" : 17]> loss (float[n,4] logits, float[n,4] wanted) => (float z) {
    d = Sub (logits, wanted)
    s = ReduceSumSquare <keepdims = 0> (d)
    scale = Constant <value_float = 0.05> ()
    z = Mul (s, scale)
}"""


def test_a_loss_of_ones_own(model, arrays, tmp_path):
    wanted = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    data = {"x": arrays["x"], "wanted": wanted}
    features, logits = features_and_logits(model, arrays)
    expected = (logits - wanted).T @ features * 0.1
    onnx.save(parser.parse_model(LOSS), tmp_path / "loss.onnx")
    for loss in (mean_square, parser.parse_model(LOSS), str(tmp_path / "loss.onnx")):
        np.testing.assert_allclose(slopes(model, data, loss=loss), expected, rtol=1e-3, atol=1e-4)


def test_a_tensor_of_the_network_as_loss(model, arrays):
    model.graph.node.append(helper.make_node("ReduceSum", ["logits"], ["whole"], keepdims=0))
    features, _ = features_and_logits(model, arrays)
    expected = np.repeat(features.sum(0)[None], 4, 0)
    np.testing.assert_allclose(slopes(model, arrays, loss="whole", batch_size=10), expected, rtol=1e-3)
    for loss, reason in [
        ("logits", "no floating-point scalar"),
        ("absent", "nor a tensor of the network"),
        ("gone.onnx", "cannot be read"),
    ]:
        with pytest.raises(rc.UsageError, match=reason):
            slopes(model, arrays, loss=loss)


# --- warm-up ---------------------------------------------------------------------------------------------------------


def test_batch_normalizations_get_statistics_when_untrained(network):
    x = np.random.default_rng(0).standard_normal((16, 3, 32, 32), dtype=np.float32) * 3 + 1
    model = network("resnet20")
    before = model.SerializeToString(deterministic=True)
    graph, _ = open_model(model)
    warm, cold = (Objective(graph, {}, Calibration(x, batch_size=16), warm_up=on) for on in (True, False))
    norms = [node for node in graph.nodes if node.op == "BatchNormalization"]
    assert (warm.warmed_up, cold.warmed_up) == (len(norms), 0)
    assert model.SerializeToString(deterministic=True) == before
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in warm.source.model.graph.initializer if "batch" in t.name}
    assert {len(n.input) for n in warm.source.model.graph.node if n.op_type == "BatchNormalization"} == {5}
    first = norms[0].outputs[0].name
    raw = norms[0].inputs[0].name
    model.graph.output.append(helper.make_tensor_value_info(raw, onnx.TensorProto.FLOAT, None))
    maps = ort.InferenceSession(model.SerializeToString()).run([raw], {"input": x})[0].astype(np.float64)
    np.testing.assert_allclose(stored[f"{first}/batch_mean"], maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stored[f"{first}/batch_variance"], maps.var((0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_statistics_are_those_of_all_samples_whatever_the_batches(parsed, batch_size):
    """The second normalization sees the first normalize by the batch, or, where that is one number, by all samples."""
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,6] x) => (float[n,3] y)'
    body = """{ h = MatMul (x, w) b = BatchNormalization (h, one, zero, zero, one) k = MatMul (b, v)
        c = BatchNormalization (k, one, zero, zero, one) y = MatMul (c, u) }"""
    model = parsed(f"{head} {body}", w=(6, 8), v=(8, 8), u=(8, 3))
    model.graph.initializer.extend([from_array(np.ones(8, np.float32), "one"), from_array(np.zeros(8, np.float32), "zero")])
    x = np.random.default_rng(0).standard_normal((9, 6), dtype=np.float32) * 3 + 1
    graph, _ = open_model(model)
    warm = Objective(graph, {}, Calibration(x, batch_size=batch_size), warm_up=True)
    stored = {t.name: to_array(t) for t in warm.source.model.graph.initializer}

    def normalized(h):
        return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)

    h = x.astype(np.float64) @ to_array(model.graph.initializer[0])  # the last batch holds one sample
    k = normalized(h) @ to_array(model.graph.initializer[1])
    for name, maps in (("b", h), ("c", k)):
        np.testing.assert_allclose(stored[f"{name}/batch_mean"], maps.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stored[f"{name}/batch_variance"], maps.var(0), rtol=1e-4)


def test_batches_of_several_positions_are_normalized_by_themselves(parsed):
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[n,3,4,4] x) => (float[n,2,4,4] y)'
    body = """{ h = Conv (x, w) b = BatchNormalization (h, one, zero, zero, one) k = Conv (b, v)
        c = BatchNormalization (k, one, zero, zero, one) y = Conv (c, u) }"""
    model = parsed(f"{head} {body}", w=(8, 3, 1, 1), v=(8, 8, 1, 1), u=(2, 8, 1, 1))
    model.graph.initializer.extend([from_array(np.ones(8, np.float32), "one"), from_array(np.zeros(8, np.float32), "zero")])
    x = np.random.default_rng(0).standard_normal((3, 3, 4, 4), dtype=np.float32)
    graph, _ = open_model(model)
    warm = Objective(graph, {}, Calibration(x, batch_size=1), warm_up=True)
    stored = {t.name: to_array(t) for t in warm.source.model.graph.initializer}
    w, v = (to_array(t)[:, :, 0, 0].astype(np.float64) for t in model.graph.initializer[:2])
    h = np.einsum("oc,nchw->nohw", w, x)
    b = (h - h.mean((2, 3), keepdims=True)) / np.sqrt(h.var((2, 3), keepdims=True) + 1e-5)
    for name, maps in (("b", h), ("c", np.einsum("oc,nchw->nohw", v, b))):
        np.testing.assert_allclose(stored[f"{name}/batch_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stored[f"{name}/batch_variance"], maps.var((0, 2, 3)), rtol=1e-4)


def test_trained_networks_are_not_warmed_up(model, arrays, network):
    assert rc.prune(model, criterion="taylor", data=arrays, verify=False).report.data["warmed_up"] == 0
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
    assert rc.prune(network("resnet20"), criterion="taylor", data=x, verify=False).report.data["warmed_up"] == 19


# --- sites -----------------------------------------------------------------------------------------------------------


def test_how_sites_are_combined(model):
    analysis = rc.analyze(model)
    units = np.array([0, 1, -1, 1])
    sites = [SiteScores(units, np.array([1.0, 2.0, 50.0, 3.0])), SiteScores(units[:2], np.array([-4.0, 2.0]))]
    wanted = {"sum": [-3, 7], "mean": [-1.5, 3.5], "max": [-4, 5], "normalized": [(1 / 3 - 4 / 3) / 2, (5 / 3 + 2 / 3) / 2]}
    assert set(wanted) == set(AGGREGATES)
    for aggregate, expected in wanted.items():
        found = combined(analysis, sites, aggregate)
        np.testing.assert_allclose(found[:2], expected)
        assert not found[2:].any()


@pytest.mark.parametrize("criterion", ["l2", "snip", "taylor", "fisher", "activation-mean"])
def test_one_option_for_all_criteria(model, arrays, criterion):
    found = [scores(model, criterion, arrays, aggregate=aggregate) for aggregate in AGGREGATES]
    assert all(np.isfinite(f).all() for f in found)
    assert len({tuple(np.argsort(f)) for f in found}) > 1 or criterion == "activation-mean"


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_with_data(model, arrays, tmp_path, run, file):
    np.savez(tmp_path / "in.npz", **arrays)
    words = [file(model), tmp_path / "out.onnx", "--criterion", "fisher", "--data", tmp_path / "in.npz", "--samples", 8]
    ran = run(*words, "--batch-size", 4, "--report", tmp_path / "report.json")
    assert ran.status == 0, ran.err
    assert "8 samples, 4 at a time; loss: cross entropy of 'logits' with labels" in ran.out
    seen = json.loads((tmp_path / "report.json").read_text())["data"]
    assert (seen["samples"], seen["batch_size"], seen["gradients"]) == (8, 4, "ort")


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_criteria_that_need_data_say_so(run, file, criterion):
    ran = run(file(), "--dry-run", "--criterion", criterion)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert f"--criterion {criterion} needs data: give --data" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["--data", "absent.npz"],
        ["--data", "absent.txt"],
        ["--data", "no.such:module"],
        ["--samples", 0],
        ["--gradients", "absent"],
        ["--aggregate", "absent"],
        ["--loss", "absent"],
        ["--image", "nonsense"],
    ],
)
def test_wrong_options_are_one_line(run, file, tmp_path, words):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 32, 32), np.float32))
    ran = run(file(), "--dry-run", "--criterion", "taylor", "--data", tmp_path / "x.npy", *words)
    assert ran.status == 2
    assert ran.err.count("\n") == 1


def test_what_single_weights_were_scored_by_is_reported(file):
    data = {"input": np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)}
    seen = rc.prune(file(), criterion="snip", data=data, granularity="weight").report.data
    assert (seen["samples"], seen["source"]) == (8, rc.prune(file(), criterion="snip", data=data).report.data["source"])


RECURRENT = """<ir_version: 9, opset_import: ["" : 18]> net (float[batch,3,seq] x, float[2,batch,4] state) => (float[batch,4] y) {
    a = Conv (x, w1)
    b = Relu (a)
    c = Conv (b, w2)
    f = Flatten (state)
    i = Constant <value_ints = [2]> ()
    d = ReduceMean <keepdims = 0> (c, i)
    j = Constant <value_ints = [0]> ()
    e = ReduceMean <keepdims = 0> (state, j)
    y = Add (d, e)
}"""


@pytest.mark.parametrize("kind", ["mapping", "npz", "function"])
def test_samples_lie_where_the_symbol_of_the_batch_is(parsed, tmp_path, kind):
    model, rng = parsed(RECURRENT, w1=(6, 3, 3), w2=(4, 6, 1)), np.random.default_rng(2)
    arrays = {"x": rng.random((5, 3, 9), np.float32), "state": rng.random((2, 5, 4), np.float32)}
    np.savez(tmp_path / "data.npz", **arrays)
    source = {"mapping": arrays, "npz": str(tmp_path / "data.npz"), "function": lambda: [arrays]}[kind]
    together = scores(model, "fisher", source, loss="squared-norm")
    np.testing.assert_allclose(together, scores(model, "fisher", arrays, loss="squared-norm", batch_size=2), rtol=1e-5)
    alone = [
        scores(model, "fisher", {"x": x[None], "state": s[:, None]}, loss="squared-norm")
        for x, s in zip(arrays["x"], arrays["state"].swapaxes(0, 1), strict=True)
    ]
    np.testing.assert_allclose(together, np.mean(alone, 0), rtol=1e-5)


def test_samples_of_another_layout_are_refused_with_that_of_the_network(parsed):
    wrong = {"x": np.zeros((5, 3, 9), np.float32), "state": np.zeros((5, 5, 4), np.float32)}
    with pytest.raises(rc.UsageError, match="has shape 5xnx4, but the network takes 2xnx4"):
        rc.prune(parsed(RECURRENT, w1=(6, 3, 3), w2=(4, 6, 1)), criterion="taylor", data=wrong)


def test_costs_are_those_of_samples(parsed, count):
    model, data = (
        parsed(RECURRENT, w1=(6, 3, 3), w2=(4, 6, 1)),
        {"x": np.ones((5, 3, 9), np.float32), "state": np.ones((2, 5, 4), np.float32)},
    )
    report = rc.prune(model, criterion="activation-mean", data=data).report
    assert report.input_shapes == {"x": [1, 3, 9], "state": [2, 1, 4]}
    assert set(report.input_sizes.values()) == {"samples"}
    assert report.before.macs == count(model, x=(1, 3, 9), state=(2, 1, 4)).macs
    assert "costs are those at x=1,3,9 state=2,1,4 (as the samples)" in summary(report).splitlines()


OLD = """<ir_version: 9, opset_import: ["" : 17]> net (float[N,3,H,W] x) => (float[N,4,H,W] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w2)
    s = Shape (c)
    three = Constant <value_int = 3> ()
    n = Gather (s, three)
    f = Cast <to = 1> (n)
    zero = Constant <value_float = 0.0> ()
    one = Constant <value_float = 1.0> ()
    anchors = Range (zero, f, one)
    y = Add (c, anchors)
}"""


@pytest.mark.parametrize("unknown", [-1, "?"])
def test_sizes_that_say_nothing_are_free(parsed, unknown):
    """As old exporters declare free dimensions; ranges of floating-point numbers are as long as the map."""
    model = parsed(OLD, w1=(16, 3, 3, 3), w2=(4, 16, 3, 3))
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for axis in (0, 2, 3):
            dims[axis].Clear()
            setattr(dims[axis], "dim_value" if unknown == -1 else "dim_param", unknown)
    assert rc.analyze(model).sizes == {"x": (1, 3, 224, 224)}
    data = np.random.default_rng(0).random((3, 3, 6, 10), np.float32)
    result = rc.prune(model, criterion="taylor", data=data, loss="squared-norm", round_to=1)
    assert [group.kept for group in result.report.groups] == [8]
    assert result.report.verify.status == "exact"
    assert result.model.graph.input[0] == model.graph.input[0]
