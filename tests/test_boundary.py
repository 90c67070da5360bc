"""What a stranger's file makes go wrong is a ModelError of one line, from a path and from a ModelProto alike; what goes wrong on a
valid model is a defect, which names its stage."""

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import onnx_reconvene as rc
from onnx_reconvene.boundary import boundary
from onnx_reconvene.errors import LONGEST, UsageError
from onnx_reconvene.passes import Cut

TEXT = """<ir_version: 9, opset_import: ["": 18]>
net (float[1,4] x) => (float[1,3] y) <float[4,8] w, float[8,3] v> {
    a = MatMul (x, w)
    b = Relu (a)
    y = MatMul (b, v)
}"""


def two_layers() -> ModelProto:
    """Return a small valid network."""
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("v", (8, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def not_utf8(model):
    model.graph.node[1].name = "some name"
    return ModelProto.FromString(model.SerializeToString().replace(b"some name", b"som\xff name"))


def metadata_not_utf8(model):
    model.metadata_props.add(key="some key", value="x")
    return ModelProto.FromString(model.SerializeToString().replace(b"some key", b"som\xff key"))


def segment(model):
    model.graph.initializer[0].segment.begin = 1
    return model


def reference_to_attribute(model):
    model.graph.node[1].attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    return model


def reference_in_body(model):
    body = helper.make_graph([helper.make_node("LeakyRelu", ["b"], ["c"])], "b", [], [helper.make_empty_tensor_value_info("c")])
    body.node[0].attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.asarray(True)))
    branch = helper.make_node("If", ["yes"], ["d"], then_branch=body, else_branch=body)
    model.graph.node.extend([condition, branch])
    return model


def negative_size(model):
    model.graph.initializer[0].dims[0] = -4
    return model


def unknown_type(model):
    model.graph.initializer[0].data_type = 99
    return model


def unknown_type_of_an_output(model):
    model.graph.output[0].type.tensor_type.elem_type = 99
    return model


def missing_domain(model):
    model.graph.node[1].domain = "com.microsoft"
    return model


def future_opset(model):
    model.opset_import[0].version = 2**40
    return model


def branches_of_unequal_arity(model):
    body = helper.make_graph([helper.make_node("Relu", ["b"], ["c"])], "b", [], [helper.make_empty_tensor_value_info("c")])
    empty = helper.make_graph([], "e", [], [])
    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.asarray(True)))
    model.graph.node.insert(1, condition)
    model.graph.node.insert(2, helper.make_node("If", ["yes"], ["d"], then_branch=body, else_branch=empty))
    return model


def concat_of_nothing(model):
    model.graph.node.insert(2, helper.make_node("Concat", [], ["d"], axis=0))
    return model


def layer_of_no_groups(model):
    model.graph.node.append(helper.make_node("Conv", ["x", "w"], ["c"], group=-8))
    return model


def huge_sparse(model):
    values = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0])
    indices = TensorProto(name="i", data_type=TensorProto.INT64, dims=[1], int64_data=[0])
    model.graph.sparse_initializer.add(values=values, indices=indices, dims=[2**50])
    return model


BROKEN = [
    not_utf8,
    metadata_not_utf8,
    segment,
    reference_to_attribute,
    reference_in_body,
    negative_size,
    unknown_type,
    unknown_type_of_an_output,
    missing_domain,
    future_opset,
    branches_of_unequal_arity,
    concat_of_nothing,
    layer_of_no_groups,
    huge_sparse,
]


@pytest.mark.parametrize("damage", BROKEN)
def test_invalid_model_is_a_model_error_of_one_line(tmp_path, damage):
    model = damage(two_layers())
    path = tmp_path / "in.onnx"
    path.write_bytes(model.SerializeToString())
    for source, name in ((model, "the model"), (path, os.fspath(path))):
        with pytest.raises(rc.ModelError) as caught:
            rc.prune(source, verify=False)
        text = str(caught.value)
        assert text.startswith(f"{name}: ")
        assert "\n" not in text
        assert len(text) <= LONGEST


@pytest.fixture
def faulty(monkeypatch):
    """Let the cut fail on all networks."""

    def fail(*_):
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(Cut, "call", fail)


def test_failure_on_a_valid_model_is_a_defect(faulty):
    with pytest.raises(rc.DefectError, match=r"internal error \(cut\).*IndexError: list index out of range") as caught:
        rc.prune(two_layers(), verify=False)
    assert isinstance(caught.value.__cause__, IndexError)


def test_failure_on_a_model_that_the_checker_refuses_is_none():
    model = two_layers()
    model.graph.node[0].op_type = "Softmax"  # of two inputs
    with pytest.raises(rc.ModelError, match=r"the model: .* the ONNX checker says"), boundary("cut", model):
        raise IndexError


def test_defect_of_the_command_has_an_exit_status_of_its_own(faulty, run, tmp_path):
    onnx.save(two_layers(), tmp_path / "in.onnx")
    ran = run(tmp_path / "in.onnx", tmp_path / "out.onnx", "--no-verify")
    assert ran.status == 70
    (line,) = ran.err.splitlines()
    assert "internal error (cut)" in line


def test_messages_are_one_printable_line():
    text = str(UsageError(f"a\nb \x1b[31m {'c' * 5000} end"))
    assert text.startswith("a b \\x1b[31m ccc")
    assert text.endswith("c end")
    assert len(text) == LONGEST


def test_nodes_in_any_order_are_read_as_runtimes_do():
    branches = (
        "<then_branch = one () => (float t) { s = Neg (a) t = Relu (s) }, else_branch = other () => (float e) { e = Relu (a) }>"
    )
    text = TEXT.replace("b = Relu (a)", f"m = ReduceMax <keepdims = 0> (x) z = Sub (m, m) q = Greater (m, z) b = If (q) {branches}")
    model = two_layers()
    model.graph.node.clear()
    model.graph.node.extend(reversed(parser.parse_model(text).graph.node))
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result = rc.prune(model, target="channels=0.5", criterion="l2", round_to=1)
    assert result.report.verify.status == "exact"
    onnx.checker.check_model(result.model)


def test_a_cycle_is_no_order():
    model = two_layers()
    model.graph.node[0].input[0] = "b"
    with pytest.raises(rc.errors.ModelError, match="topologically sorted"):
        rc.analyze(model)
