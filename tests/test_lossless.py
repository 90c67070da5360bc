"""What is not cut stays as it was, field by field: nothing at all changes where nothing is removed, else only what must."""

import os
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ZOO
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import models
import onnx_reconvene as rc
from onnx_reconvene.graph import to_model

DIVERSE = [
    "crnn",
    "dscnn_kws",
    "espcn",
    "levit_128s",
    "mobilenet_v2__bn",
    "shufflenet_v2_x1_0__dynamo",
    "squeezenet1_1",
    "unet_transpose__dynamo",
]
ALL = sorted(path.stem for path in ZOO.glob("*.onnx")) if os.environ.get("RECONVENE_ALL") else DIVERSE


def differences(a: Message, b: Message, path: str = "") -> Iterator[str]:
    """Yield the paths of the fields in which two messages differ."""
    if a == b:
        return
    for field in a.DESCRIPTOR.fields:
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x == y and (field.is_repeated or not field.has_presence or a.HasField(field.name) == b.HasField(field.name)):
            continue
        if field.message_type is None or (field.is_repeated and len(x) != len(y)):
            yield f"{path}{field.name}"
        elif field.is_repeated:
            for i, (u, v) in enumerate(zip(x, y, strict=True)):
                yield from differences(u, v, f"{path}{field.name}[{getattr(u, 'name', '') or i}].")
        else:
            yield from differences(x, y, f"{path}{field.name}.")


def assert_same(a: ModelProto, b: ModelProto) -> None:
    """Two models are equal field by field."""
    assert a == b, list(differences(a, b))[:20]


# --- a model that uses everything ------------------------------------------------------------------------------------

TEXT = """
<
  ir_version: 11,
  opset_import: ["" : 21, "ai.onnx.ml" : 3, "acme" : 7, "unused.domain" : 2],
  producer_name: "a test", producer_version: "1.2", domain: "org.acme", model_version: 42, doc_string: "Everything at once."
>
everything (float[N,3,8,8] x, bool flag, float[1] gain) => (float[N,4] y, float[N,4,8,8] seen)
  <float[N,8,8,8] r, float[N,8,8,8] a, float[N,4,8,8] c, float[N,4,8,8] nobody>
{
  [conv1] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1)
  [norm1] n = BatchNormalization <epsilon = 0.00001> (a, scale, bias, mean, var)
  [relu1] r = Relu (n)
  [depth] d = Conv <dilations = [1, 1], group = 8, kernel_shape = [1, 1]> (r, w2)
  [blocks_shape] shape = Constant <value_ints = [0, 8, 64]> ()
  [flat] f = Reshape (d, shape)
  [unflat] u = Reshape (f, image)
  [conv2] c = Conv (u, w3)
  [half] h16 = Cast <to = 10> (c)
  [half_mul] m16 = Mul (h16, half_weight)
  [float] m32 = Cast <to = 1> (m16)
  [brain] bw = Cast <to = 1> (brain_weight)
  [add_brain] ab = Add (m32, bw)
  [four] fw = DequantizeLinear (four_bits, four_scale)
  [add_four] af = Add (ab, fw)
  [twice] tw = acme.Twice <by = 1.5> (af)
  [gained] seen = Mul (tw, gain)
  [pool] p = GlobalAveragePool (seen)
  [flatten] e = Flatten (p)
  [scaler] l = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (e)
  [maybe] y = If (flag) <
    then_branch = yes () => (float[N,4] t) { k = Constant <value_float = 2.0> () o = Mul (l, k) t = Add (o, from_outside) },
    else_branch = no () => (float[N,4] g) <float[4] own = {1.0, 2.0, 3.0, 4.0}> { g = Sub (l, own) }
  >
}
<domain: "acme", opset_import: ["" : 21], doc_string: "Twice, and more.">
Twice <by: float = 1.0> (v) => (z) { q = Constant <value_float: float = @by> () t = Mul (v, q) z = Add (t, t) }
"""


def weight(name, shape, dtype=np.float32, **more):
    """Return random values as a tensor."""
    rng = np.random.default_rng(len(name))
    tensor = numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(dtype), name)
    tensor.doc_string = f"about {name}"
    tensor.metadata_props.add(key="of", value=name)
    return tensor


def sparse(name, shape, values):
    """Return a sparse tensor with these values at flat positions."""
    content = numpy_helper.from_array(np.array(list(values.values()), np.float32), name)
    return helper.make_sparse_tensor(content, numpy_helper.from_array(np.array(list(values)), f"{name}_indices"), shape)


def everything() -> ModelProto:
    """Return a model that uses every kind of field, and runs."""
    model = parser.parse_model(TEXT)
    graph = model.graph
    spare = np.arange(5000, dtype=np.float32)
    graph.initializer.extend(
        [
            weight("w3", (4, 8, 1, 1)),  # in no order at all
            helper.make_tensor("w1", TensorProto.FLOAT, (8, 3, 3, 3), np.linspace(-1, 1, 216)),  # as float_data
            *(weight(name, (8,)) for name in ("b1", "scale", "bias", "mean", "var")),
            weight("w2", (8, 1, 1, 1), np.float32),
            numpy_helper.from_array(np.array([0, 8, 8, 8]), "image"),
            weight("half_weight", (4, 1, 1), np.float16),
            weight("brain_weight", (4, 1, 1), ml_dtypes.bfloat16),
            helper.make_tensor("four_bits", TensorProto.INT4, (1, 1, 3), [-8, 7, 1], raw=False),
            weight("four_scale", ()),
            weight("gain", (1,)),  # a graph input too
            weight("from_outside", (4,)),
            numpy_helper.from_array(spare, "unused"),
            helper.make_tensor("unused_text", TensorProto.STRING, (2,), [b"cat", b"dog"]),
            numpy_helper.from_array(np.arange(9000, dtype=np.int8).reshape(90, 100), "unused_bytes"),
        ]
    )
    graph.initializer[11].dims[:] = (1, 1, 1, 1)
    graph.initializer[11].int32_data[:] = [7]
    graph.sparse_initializer.append(sparse("unused_sparse", (4, 4), {0: 1.5, 5: -2.5, 15: 3.5}))
    decorate(model)
    onnx.checker.check_model(model)
    return model


def decorate(model):
    """Put metadata and doc strings wherever there is room for them."""
    note(model, "names", "{0: 'cat', 1: 'dog'}")
    note(model, "stride", "32")
    note(model.graph, "task", "classify")
    model.graph.doc_string = "A graph."
    model.functions[0].metadata_props.add(key="pkg", value="local")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        value.doc_string = f"the value {value.name}"
        note(value, "seen", "yes")
    for node in model.graph.node:
        node.doc_string = f"line {node.op_type}"
        note(node, "pkg.torch.onnx.class_hierarchy", node.name)
        for attribute in node.attribute:
            attribute.doc_string = f"says {attribute.name}"
    annotation = model.graph.quantization_annotation.add(tensor_name="w1")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="four_scale")
    model.configuration.add(name="two", num_devices=2, device=["cpu:0", "cpu:1"])
    for node in model.graph.node[:4]:
        node.device_configurations.add(configuration_id="two", pipeline_stage=1)


def note(message, key, value):
    """Add a metadata property."""
    message.metadata_props.add(key=key, value=value)


@pytest.fixture(scope="module")
def full():
    """Return the model that uses everything, to be left as it is."""
    return everything()


def outputs(model, batch=2):
    """Run a model that has the inputs of `everything`."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((batch, 3, 8, 8), dtype=np.float32)
    return session.run(None, {"x": x, "flag": np.array(True)})


# --- nothing removed -------------------------------------------------------------------------------------------------


def through_file(model, tmp_path, run, *options):
    """Send a model through the command line and return what comes out."""
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    ran = run(tmp_path / "in.onnx", tmp_path / "out.onnx", *(options or ("--target", "channels=1.0")))
    assert ran.status == 0, ran.err
    return onnx.load(tmp_path / "out.onnx")


@pytest.mark.parametrize("name", ALL)
def test_nothing_changes_in_a_real_network(zoo, run, tmp_path, name):
    model = zoo(name)
    assert_same(through_file(model, tmp_path, run), model)


@pytest.mark.parametrize("name", models.NAMES)
def test_nothing_changes_in_a_standard_network(network, name):
    model = network(name)
    assert_same(rc.prune(model, target="channels=1.0").model, model)


def test_nothing_changes_in_a_model_with_everything(full, run, tmp_path):
    assert_same(through_file(full, tmp_path, run), full)
    assert_same(rc.prune(full, target="channels=1.0").model, full)


def test_nothing_changes_in_fields_of_a_later_standard(full, run, tmp_path):
    """Fields that this release of onnx does not know: in the model, its graph, a node and a large and a small tensor."""
    unknown = b"\xfa\x3e\x05later"  # field 1007, five bytes
    model = ModelProto()
    model.CopyFrom(full)
    large = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    for message in (model.graph.node[0], model.graph.node[3], model.graph.initializer[0], large, model.graph, model):
        message.MergeFromString(unknown)
    content = model.SerializeToString()
    assert content.count(unknown) == 6
    assert through_file(model, tmp_path, run).SerializeToString().count(unknown) == 6


def test_external_data_becomes_one_file(full, run, tmp_path):
    copy = ModelProto()
    copy.CopyFrom(full)
    place = {"save_as_external_data": True, "location": "in.data", "size_threshold": 100, "convert_attribute": True}
    onnx.save(copy, tmp_path / "in.onnx", **place)
    assert run(tmp_path / "in.onnx", tmp_path / "out.onnx", "--target", "channels=1.0").status == 0
    (tmp_path / "in.data").unlink()
    assert_same(onnx.load(tmp_path / "out.onnx"), full)


# --- something removed -----------------------------------------------------------------------------------------------

SLICED = {"w1": 0, "b1": 0, "scale": 0, "bias": 0, "mean": 0, "var": 0, "w2": 0, "w3": 1}
RESHAPED = ["r", "a"]


@pytest.fixture(scope="module")
def halved(full):
    """Return the model that uses everything with half of its removable channels."""
    result = rc.prune(full, target="channels=0.5", round_to=1)
    assert [(group.width, group.kept) for group in result.report.groups] == [(8, 4)]
    assert result.report.verify.status == "exact"
    return result.model


def test_pruned_model_with_everything_is_valid_and_runs(full, halved):
    onnx.checker.check_model(halved, full_check=True)
    for batch in (1, 2):
        assert [y.shape for y in outputs(halved, batch)] == [y.shape for y in outputs(full, batch)]


def test_only_what_must_changes(full, halved):
    """Put the parts that have to change back to what they were: now both models are equal field by field."""
    restored = ModelProto()
    restored.CopyFrom(halved)
    before = {tensor.name: tensor for tensor in full.graph.initializer}
    for tensor in restored.graph.initializer:
        if tensor.name in SLICED or tensor.name == "image":
            tensor.CopyFrom(before[tensor.name])
    declared = {value.name: value for value in full.graph.value_info}
    for value in restored.graph.value_info:
        if value.name in RESHAPED:
            value.CopyFrom(declared[value.name])
    nodes = {node.name: node for node in full.graph.node}
    for node in restored.graph.node:
        for attribute in node.attribute:
            if (node.name, attribute.name) in {("depth", "group"), ("blocks_shape", "value_ints")}:
                attribute.CopyFrom(next(a for a in nodes[node.name].attribute if a.name == attribute.name))
    assert_same(restored, full)


@pytest.mark.parametrize("name", SLICED)
def test_sliced_weights_keep_all_but_size(full, halved, name):
    (before,) = [t for t in full.graph.initializer if t.name == name]
    (after,) = [t for t in halved.graph.initializer if t.name == name]
    assert (after.data_type, after.doc_string) == (before.data_type, before.doc_string)
    assert after.metadata_props == before.metadata_props
    assert list(after.dims) == [n // 2 if axis == SLICED[name] else n for axis, n in enumerate(before.dims)]
    rows = np.moveaxis(numpy_helper.to_array(before), SLICED[name], 0).tolist()
    kept = np.moveaxis(numpy_helper.to_array(after), SLICED[name], 0).tolist()
    assert [row for row in rows if row in kept] == kept


def test_declared_shapes_follow(full, halved):
    for before, after in zip(full.graph.value_info, halved.graph.value_info, strict=True):
        wanted = type(before)()
        wanted.CopyFrom(before)
        if before.name in RESHAPED:
            wanted.type.tensor_type.shape.dim[1].dim_value = 4
        assert after == wanted


def test_attributes_follow(halved):
    nodes = {node.name: node for node in halved.graph.node}
    assert [a.i for a in nodes["depth"].attribute if a.name == "group"] == [4]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_weights_of_other_types_stay_of_their_type(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    name = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "double", TensorProto.BFLOAT16: "bfloat16"}[kind]
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 22]> net ({name}[N,3,8,8] x) => ({name}[N,4,8,8] y) {{
            a = Conv (x, w1) b = Relu (a) y = Conv (b, w2)
        }}"""
    )
    model.graph.initializer.extend([weight("w1", (80, 3, 1, 1), dtype), weight("w2", (4, 80, 1, 1), dtype)])
    result = rc.prune(model, target="channels=0.5", round_to=1)
    w1, w2 = result.model.graph.initializer
    assert (w1.data_type, w2.data_type) == (kind, kind)
    assert (list(w1.dims), list(w2.dims)) == ([40, 3, 1, 1], [4, 40, 1, 1])
    before = numpy_helper.to_array(model.graph.initializer[0]).tolist()
    assert all(row in before for row in numpy_helper.to_array(w1).tolist())
    size = np.dtype(dtype).itemsize
    assert (result.report.before.bytes, result.report.after.bytes) == (80 * 7 * size, 40 * 7 * size)


def test_weights_that_are_graph_inputs_stay_consistent(network):
    """In IR version 3 every initializer is an input too; what is declared there has to follow, or to stay."""
    model = network("resnet20")
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model, full_check=True)
    try:
        pruned = rc.prune(model, target="channels=0.5").model
    except rc.TargetError:
        return  # to freeze them all is safe
    onnx.checker.check_model(pruned, full_check=True)
    dims = {tensor.name: list(tensor.dims) for tensor in pruned.graph.initializer}
    assert [value.name for value in pruned.graph.input] == [value.name for value in model.graph.input]
    for value in pruned.graph.input[1:]:
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] == dims[value.name]


def test_a_weight_made_at_run_time_is_left_alone_where_nothing_of_it_goes(parsed):
    net = """<ir_version: 9, opset_import: ["" : 18]> net (float[N,3,4,4] x) => (float[N,5,4,4] y) {
        a = Conv (x, w1)
        b = Conv (a, w2)
        size = Constant <value_ints = [5, 1, 1]> ()
        [ones] c = ConstantOfShape <value = float[1] {1.0}> (size)
        y = Add (b, c)
    }"""
    model = parsed(net, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1))
    pruned = rc.prune(model, target="channels=0.5", round_to=1).model
    assert [t.name for t in pruned.graph.initializer] == ["w1", "w2"]
    assert pruned.graph.node == model.graph.node


def test_sparse_weights_stay(parsed):
    net = """<ir_version: 9, opset_import: ["" : 18]> net (float[2,6] x) => (float[2,4] y) {
        a = MatMul (x, w1)
        b = MatMul (a, w2)
        y = MatMul (b, mix)
    }"""
    model = parsed(net, w1=(6, 8), w2=(8, 4))
    model.graph.sparse_initializer.append(sparse("mix", (4, 4), {0: 1.0, 6: 2.0, 13: -1.0}))
    onnx.checker.check_model(model)
    assert_same(rc.prune(model, target="channels=1.0").model, model)
    result = rc.prune(model, target="channels=0.5", only=["w1"], round_to=1)
    assert result.report.verify.status == "exact"
    assert result.model.graph.sparse_initializer == model.graph.sparse_initializer
    assert [list(t.dims) for t in result.model.graph.initializer] == [[6, 2], [2, 4]]


def test_names_of_tensors_in_attributes_stay_away(parsed):
    model = parsed(
        """<ir_version: 10, opset_import: ["" : 21]> net (float[1,1,4,4] x) => (float[1,2,4,4] y)
        <float[2,1,1,1] w = {1, 2}, int64[4] sizes = {2, 2, 1, 1}>
        { a = Conv(x, w) filled = ConstantOfShape<value = float[1] {0.25}>(sizes) y = Conv(a, filled) }"""
    )
    model.graph.node[1].attribute[0].t.ClearField("name")
    assert to_model(rc.analyze(model).graph) == model


def test_weights_of_bodies_and_of_constant_nodes_beside_them_go_back_where_they_were(parsed):
    model = parsed(
        """<ir_version: 10, opset_import: ["" : 21]> net (float[1,2] x) => (float[1,2] y)
        <int64 count = {2}, bool go = {1}, float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
            a = MatMul(x, w)
            h = Loop(count, go, a) <body = step (int64 i,bool c, float[1,4] s) => (bool d, float[1,4] r) <float[4] b = {1, 2, 3, 4}>
                { d = Identity(c) k = Constant<value = float[4] {5, 6, 7, 8}>() q = Mul(s, b) r = Add(q, k) }>
            v = Constant<value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}>()
            y = MatMul(h, v)
        }"""
    )
    assert to_model(rc.analyze(model).graph) == model
    pruned = rc.prune(model, target="channels=0.5", criterion="l1", rectify="none", round_to=1).model
    (loop,) = [node for node in pruned.graph.node if node.op_type == "Loop"]
    (body,) = [attribute.g for attribute in loop.attribute]
    assert [(t.name, list(t.dims)) for t in body.initializer] == [("b", [2])]
    assert [list(n.attribute[0].t.dims) for g in (body, pruned.graph) for n in g.node if n.op_type == "Constant"] == [[2], [2, 2]]
    assert [t.name for t in pruned.graph.initializer] == ["count", "go", "w"]
