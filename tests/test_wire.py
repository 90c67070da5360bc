"""The lazy reader gives what onnx.load gives, and refuses what is no whole model with a ModelError and nothing else."""

import os
import random
from itertools import accumulate

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_reconvene import ModelError
from onnx_reconvene.graph import load, to_model
from onnx_reconvene.wire import INITIALIZER, MAPPED_FROM, split

QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

WIDTHS = {  # bits per element
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.COMPLEX64: 64,
}
NEAR = st.sampled_from([0, 1, 2, 8, MAPPED_FROM - 1, MAPPED_FROM, MAPPED_FROM + 1, MAPPED_FROM + 8, 3 * MAPPED_FROM + 5])


def skeleton(*tensors: TensorProto) -> ModelProto:
    """Return a valid model with these initializers, which nothing reads."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "net", [x], [y], tensors)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)], producer_name="a test")


@st.composite
def tensors(draw: st.DrawFn, name: str) -> TensorProto:
    """Draw a tensor of about the size from which data stays in the file."""
    kind = draw(st.sampled_from(list(WIDTHS)))
    size = draw(NEAR) * 8 // WIDTHS[kind]
    if draw(st.booleans()):
        content = random.Random(draw(st.integers(0, 9))).randbytes((size * WIDTHS[kind] + 7) // 8)
        if kind == TensorProto.BOOL:
            content = bytes(byte & 1 for byte in content)
        tensor = TensorProto(name=name, data_type=kind, dims=[size], raw_data=content)
    else:
        tensor = helper.make_tensor(name, kind, [size], np.zeros(size, helper.tensor_dtype_to_np_dtype(kind)))
    tensor.doc_string = draw(st.sampled_from(["", "about it", "x" * 5000]))
    return tensor


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """Draw a model with a few weights, in initializers and in Constant nodes."""
    stored = [draw(tensors(f"w{i}")) for i in range(draw(st.integers(0, 5)))]
    in_nodes = draw(st.integers(0, len(stored)))
    model = skeleton(*stored[in_nodes:])
    for tensor in stored[:in_nodes]:
        model.graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    return model


def unknown(number: int, content: bytes) -> bytes:
    """Return a field that onnx does not know, its content as bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Return value as protobuf writes it."""
    low = [value >> shift & 0x7F | 0x80 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*low[:-1], low[-1] & 0x7F])


def joined(path: os.PathLike[str]) -> ModelProto:
    """Return the model that the lazy reader finds at path, its parts put together."""
    bare, weights = split(os.fspath(path))
    model = onnx.load_from_string(bare)
    for (number, index), data in weights.items():
        assert data.size >= MAPPED_FROM
        tensor = model.graph.initializer[index] if number == INITIALIZER else model.graph.node[index].attribute[0].t
        assert not tensor.HasField("raw_data")
        tensor.raw_data = data.tobytes()
    return model


def same_bytes(a: ModelProto, b: ModelProto) -> bool:
    """Compare two models with their unknown fields."""
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


@QUICK
@given(model=models())
def test_lazy_reader_gives_what_onnx_gives(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert same_bytes(joined(path), onnx.load(path))
    assert to_model(load(path)) == onnx.load(path)
    _, weights = split(str(path))
    large = [i for i, t in enumerate(model.graph.initializer) if len(t.raw_data) >= MAPPED_FROM]
    assert sorted(i for number, i in weights if number == INITIALIZER) == large


@QUICK
@given(model=models(), data=st.data())
def test_unknown_fields_pass_through(tmp_path, model, data):
    places = [model, model.graph, model.graph.node[0], *model.graph.initializer]
    for place in data.draw(st.lists(st.sampled_from(range(len(places))), max_size=4)):
        number = data.draw(st.sampled_from([30, 1000, 2**20]))
        content = data.draw(st.sampled_from([b"", b"later", bytes(MAPPED_FROM)]))
        places[place].MergeFromString(unknown(number, content) + varint(number << 3 | 5) + b"four")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert same_bytes(joined(path), onnx.load(path))


@QUICK
@given(model=models(), data=st.data())
def test_fields_come_in_any_order(tmp_path, model, data):
    """Protobuf lets fields of a message come in any order, and merges a message that comes in parts."""
    graph, rest = model.graph, ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    parts = [unknown(5, tensor.SerializeToString()) for tensor in graph.initializer]
    bare = onnx.GraphProto()
    bare.CopyFrom(graph)
    bare.ClearField("initializer")
    parts = data.draw(st.permutations([*parts, bare.SerializeToString()]))
    cut = data.draw(st.integers(0, len(parts)))
    graphs = [unknown(7, b"".join(parts[:cut])), unknown(7, b"".join(parts[cut:]))]
    path = tmp_path / "m.onnx"
    path.write_bytes(b"".join(data.draw(st.permutations([*graphs, rest.SerializeToString()]))))
    assert same_bytes(joined(path), onnx.load(path))
    assert to_model(load(path)) == onnx.load(path)


@pytest.mark.parametrize("sizes", [(5000, 6000), (5000, 8), (8, 5000), (5000, 0)])
def test_last_of_several_contents_counts(tmp_path, sizes):
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[sizes[-1]]).SerializeToString()
    tensor += b"".join(unknown(9, bytes([i]) * size) for i, size in enumerate(sizes))
    path = tmp_path / "m.onnx"
    path.write_bytes(skeleton().SerializeToString() + unknown(7, unknown(5, tensor)))
    assert to_model(load(path)) == onnx.load(path)


def test_large_weights_stay_in_the_file(tmp_path):
    path = tmp_path / "m.onnx"
    values = np.arange(3 * MAPPED_FROM, dtype=np.float32)
    path.write_bytes(skeleton(numpy_helper.from_array(values, "w")).SerializeToString())
    bare, weights = split(str(path))
    assert len(bare) < 500
    assert not weights[INITIALIZER, 0].flags.writeable
    assert np.array_equal(weights[INITIALIZER, 0].view(np.float32), values)


def small_model() -> bytes:
    """Return a model with tensors on either side of the threshold, and metadata behind the graph."""
    large = numpy_helper.from_array(np.arange(MAPPED_FROM, dtype=np.uint8), "large")
    small = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "small")
    model = skeleton(small, large, helper.make_tensor("typed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    return model.SerializeToString()


def field_ends(content: bytes) -> set[int]:
    """Return where the fields of a message whose fields are all known end."""
    model = onnx.load_from_string(content)
    fields = [type(model)(**{f.name: value}).ByteSize() if not f.is_repeated else None for f, value in model.ListFields()]
    sizes = []
    for (field, value), size in zip(model.ListFields(), fields, strict=True):
        sizes += [size] if size is not None else [type(model)(**{field.name: [entry]}).ByteSize() for entry in value]
    return set(accumulate(sizes))


def test_every_truncation_is_refused(tmp_path):
    """Whatever is left of a file, it is read as onnx reads it or refused; inside a field it is always refused."""
    content = small_model()
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    ends = field_ends(content)
    assert len(content) in ends
    accepted = set()
    for size in range(len(content) - 1, -1, -1):
        os.truncate(path, size)
        try:
            graph = load(path)
        except ModelError as error:
            complaint = str(error)
        else:
            complaint = ""
            accepted.add(size)
            assert to_model(graph) == onnx.load(path)
        assert not complaint or ("m.onnx" in complaint and "\n" not in complaint)
    assert accepted < ends
    assert len(accepted) <= 1  # the model without its metadata


def test_damage_is_refused(tmp_path):
    """Any bytes at all: a graph or a ModelError."""
    content, rng, refused = small_model(), random.Random(0), 0
    path = tmp_path / "m.onnx"
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            place = rng.choice([rng.randrange(150), rng.randrange(len(content) - 150, len(content))])
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except ModelError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", [0, 99, -1, TensorProto.STRING])
def test_large_weight_of_no_known_type(tmp_path, kind):
    tensor = TensorProto(name="w", data_type=kind, dims=[2 * MAPPED_FROM], raw_data=bytes(2 * MAPPED_FROM))
    path = tmp_path / "m.onnx"
    path.write_bytes(skeleton(tensor).SerializeToString())
    with pytest.raises(ModelError):
        load(path)


@pytest.mark.parametrize("dims", [[MAPPED_FROM - 1], [-MAPPED_FROM], [2**40, 2**40], [MAPPED_FROM, 2], []])
def test_large_weight_of_another_shape(tmp_path, dims):
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=dims, raw_data=bytes(MAPPED_FROM))
    path = tmp_path / "m.onnx"
    path.write_bytes(skeleton(tensor).SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        load(path)


# --- external data ---------------------------------------------------------------------------------------------------


@QUICK
@given(model=models(), threshold=st.sampled_from([0, 1024, MAPPED_FROM]))
def test_external_data_is_read_as_onnx_reads_it(tmp_path, model, threshold):
    (tmp_path / "m.data").unlink(missing_ok=True)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=threshold)
    wanted = onnx.load(tmp_path / "m.onnx")
    for tensor in wanted.graph.initializer:
        tensor.ClearField("data_location")  # which onnx sets to what it is anyway
    assert to_model(load(tmp_path / "m.onnx")) == wanted


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "folder/../../secret", "absent", "folder", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    """As onnx refuses it: a model must not read whatever file it likes."""
    (tmp_path / "secret").write_bytes(bytes(MAPPED_FROM))
    (tmp_path / "models" / "folder").mkdir(parents=True)
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "models" / "m.onnx"
    path.write_bytes(skeleton(tensor).SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        load(path)


@pytest.mark.parametrize(("offset", "length"), [("0", "9000"), ("4000", "4096"), ("-8", "8"), ("x", "8"), ("0", "-8"), ("0", "7")])
def test_external_data_that_is_too_short_is_refused(tmp_path, offset, length):
    (tmp_path / "m.data").write_bytes(bytes(MAPPED_FROM))
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "m.data", "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(skeleton(tensor).SerializeToString())
    with pytest.raises(ModelError):
        load(path)
