"""The command line: exit codes, one readable line per error, atomic output, a true report."""

import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import OperatorSetIdProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import onnx_reconvene
from onnx_reconvene import criteria
from onnx_reconvene.api import write_report

OLD = b"an older file that is to survive"
CONV_NET = """<ir_version: 9, opset_import: ["" : 18]>
net (float[N,3,H,W] x) => (float[N,4] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv (b, w2)
    d = GlobalAveragePool (c)
    e = Flatten (d)
    y = Gemm <transB = 1> (e, w3)
}"""
CONV_WEIGHTS = {"w1": (16, 3, 3, 3), "w2": (16, 16, 1, 1), "w3": (4, 16)}


@pytest.fixture
def out(tmp_path):
    """Return the path of an existing output file."""
    path = tmp_path / "out.onnx"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def fails(run, out):
    """Run a command that has to fail with one line that mentions some words, and leave nothing but what was there."""

    def check(status, *words, mentions):
        before = {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
        ran = run(*words)
        assert ran.status == status, ran.err
        assert ran.out == ""
        (line,) = ran.err.splitlines()
        assert line.startswith("onnx-reconvene: ")
        assert "internal error" not in line
        for mention in mentions:
            assert str(mention) in line
        assert {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()} == before
        return line

    return check


def flat(path):
    """Return the weights of a model file by name."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def feed(model, **shapes):
    """Run a model, given as path or bytes, on inputs of these shapes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    return session.run(None, {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()})


# --- input that cannot be read ---------------------------------------------------------------------------------------


def test_missing_input(fails, out, tmp_path):
    fails(3, tmp_path / "absent.onnx", out, mentions=["absent.onnx", "No such file"])


def test_input_that_is_a_pipe(fails, out, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody writes to it
    fails(3, pipe, out, mentions=[pipe, "no regular file"])


def test_folder_as_input(fails, out, tmp_path):
    fails(3, tmp_path, out, mentions=[tmp_path])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"PK\x03\x04 this is a zip file, or so it says",
        b"just some text, which is no model\n" * 200,
        bytes(5000),
        numpy_helper.from_array(np.ones((4, 4), np.float32), "w").SerializeToString(),
        numpy_helper.from_array(np.ones((64, 64), np.float32), "w").SerializeToString(),
        OperatorSetIdProto(domain="ai.onnx", version=18).SerializeToString(),
        helper.make_node("Relu", ["x"], ["y"]).SerializeToString(),
        onnx.ModelProto(ir_version=9).SerializeToString(),
        onnx.ModelProto(ir_version=9, opset_import=[OperatorSetIdProto(version=18)]).SerializeToString(),
    ],
    ids=["empty", "newline", "zip", "text", "zeros", "tensor", "large-tensor", "opset", "node", "bare-model", "no-graph"],
)
def test_input_that_is_no_model(fails, out, tmp_path, content):
    (tmp_path / "in.onnx").write_bytes(content)
    fails(3, tmp_path / "in.onnx", out, mentions=["in.onnx"])


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.5, 0.9, 0.999999])
def test_truncated_input(fails, out, file, share):
    path = file("resnet20")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    fails(3, path, out, mentions=["in.onnx"])


def test_model_without_opset_import(fails, out, file, network):
    model = network("resnet20")
    del model.opset_import[:]
    fails(3, file(model), out, mentions=["in.onnx", "opset"])


def test_model_that_reads_a_tensor_no_node_makes(fails, out, file, network):
    model = network("resnet20")
    model.graph.node[5].input[0] = "nobody"
    fails(3, file(model), out, mentions=["in.onnx", "nobody"])


def test_model_with_an_unknown_operator(fails, out, file, network):
    model = network("resnet20")
    model.graph.node[5].op_type = "Convolute"
    fails(3, file(model), out, mentions=["in.onnx", "Convolute"])


def test_model_whose_shapes_do_not_fit(fails, out, file, parsed):
    model = parsed(CONV_NET, **CONV_WEIGHTS | {"w2": (16, 15, 1, 1)})
    fails(3, file(model), out, mentions=[])


def test_weight_with_too_few_bytes(fails, out, file, network):
    model = network("resnet20")
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.raw_data = tensor.raw_data[:-4]
    fails(3, file(model), out, mentions=[tensor.name])


def test_external_data_that_is_missing(fails, out, file, network, tmp_path):
    model = network("resnet20")
    convert_model_to_external_data(model, location="in.data")
    onnx.save(model, tmp_path / "in.onnx")
    (tmp_path / "in.data").unlink()
    fails(3, tmp_path / "in.onnx", out, mentions=["in.data"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layer2.0.conv1.weight", "layer1.0.bn1.weight", "layer3.1.bn2.running_var", "fc.weight"])
def test_weights_that_are_not_finite(fails, out, file, network, name, value):
    fails(3, file(spoilt(network("resnet20"), name, value)), out, mentions=[name])


def test_nan_in_a_weight_without_removable_channels(fails, out, file, network):
    fails(3, file(spoilt(network("resnet20"), "fc.bias", np.nan)), out, mentions=["fc.bias"])


def spoilt(model, name, value):
    """Put value somewhere into an initializer."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[3] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


# --- options and paths that cannot be right --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--target", "flops=0.5"], ["--target", "flops", "macs"]),
        (["--target", ""], ["--target"]),
        (["--target", "macs"], ["--target", "macs"]),
        (["--target", "macs="], ["--target", "macs="]),
        (["--target", "macs=half"], ["--target", "half"]),
        (["--target", "macs=0"], ["--target", "macs=0"]),
        (["--target", "macs=-0.5"], ["--target", "-0.5"]),
        (["--target", "macs=150%"], ["--target", "150%"]),
        (["--target", "macs=3/2"], ["--target", "3/2"]),
        (["--target", "macs=1/0"], ["--target", "1/0"]),
        (["--target", "macs=nan"], ["--target", "nan"]),
        (["--target", "macs=inf"], ["--target", "inf"]),
        (["--target", "params=2MB"], ["--target", "2mb"]),
        (["--target", "macs=0.5", "--target", "size=1x"], ["--target", "size=1x"]),
        (["--criterion", "magic"], ["--criterion", "magic", "l1", "random"]),
        (["--allocate", "magic"], ["--allocate", "magic", "uniform", "global"]),
        (["--round-to", "0"], ["--round-to", "0"]),
        (["--round-to", "-4"], ["--round-to", "-4"]),
        (["--round-to", "1.5"], ["--round-to", "1.5"]),
        (["--round-to", "many"], ["--round-to", "many"]),
        (["--min-width", "0"], ["--min-width"]),
        (["--min-width", "few"], ["--min-width", "few"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--seed", "x"], ["--seed", "x"]),
        (["--ignore", "nothing*"], ["--ignore", "nothing*"]),
        (["--only", "nothing*"], ["--only", "nothing*"]),
        (["--keep", "nothing*=0.5"], ["--keep", "nothing*"]),
        (["--keep", "conv1"], ["--keep", "conv1"]),
        (["--keep", "conv1="], ["--keep", "conv1="]),
        (["--keep", "=0.5"], ["--keep", "=0.5"]),
        (["--keep", "conv1=most"], ["--keep", "most"]),
        (["--keep", "conv1=0"], ["--keep", "conv1"]),
        (["--keep", "conv1=1.5"], ["--keep", "conv1=1.5"]),
        (["--keep", "conv1=nan"], ["--keep", "conv1"]),
        (["--input-shape", "input"], ["--input-shape", "input"]),
        (["--input-shape", "input=1,3,x,32"], ["--input-shape", "1,3,x,32"]),
        (["--input-shape", "input=0,3,32,32"], ["--input-shape", "input"]),
        (["--input-shape", "input=1,3,32"], ["--input-shape", "1x3x32"]),
        (["--input-shape", "input=99999999999999999999,3,32,32"], ["--input-shape", "input", "more than any tensor holds"]),
        (["--input-shape", "input=1,4,32,32"], ["--input-shape", "1x4x32x32"]),
        (["--input-shape", "image=1,3,32,32"], ["--input-shape", "image", "input"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["--target"], ["--target"]),
        (["third.onnx"], ["third.onnx"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_usage(fails, out, file, options, mentions):
    fails(2, file("resnet20"), out, *options, mentions=mentions)


def test_arguments_left_out(fails, file):
    fails(2, mentions=["IN.onnx"])
    fails(2, file("resnet20"), mentions=["OUT.onnx"])


def test_output_in_a_missing_folder(fails, file, tmp_path):
    fails(2, file("resnet20"), tmp_path / "absent" / "out.onnx", mentions=["absent"])


def test_output_that_is_a_folder(fails, file, tmp_path):
    fails(2, file("resnet20"), tmp_path, mentions=[tmp_path])


@pytest.mark.parametrize("option", ["OUT.onnx", "--report", "--plan", "--latency-job"])
def test_output_that_is_no_regular_file(fails, file, out, tmp_path, option):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        words = {"OUT.onnx": [path], "--latency-job": [option, path]}.get(option, [out, option, path])
        fails(2, file("resnet20"), *words, mentions=[path, "is no regular file"])
        assert path.is_fifo()
    assert link.is_symlink()


def test_saved_networks_and_reports_replace_no_pipe(file, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = onnx_reconvene.prune(str(file("resnet20")))
    with pytest.raises(onnx_reconvene.UsageError, match="is no regular file"):
        result.save(pipe)
    with pytest.raises(onnx_reconvene.UsageError, match="is no regular file"):
        write_report(result.report, str(pipe))
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_output_in_a_folder_that_takes_no_files(fails, file):
    fails(2, file("resnet20"), "/proc/out.onnx", mentions=["/proc/out.onnx", "cannot be written"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(fails, file, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    fails(2, file("resnet20"), folder / "out.onnx", mentions=["locked", "permission"])
    locked = tmp_path / "locked.onnx"
    locked.write_bytes(OLD)
    locked.chmod(0o444)
    fails(2, file("resnet20"), locked, mentions=["locked.onnx", "permission"])


def test_report_that_cannot_be_written(fails, file, out, tmp_path):
    fails(2, file("resnet20"), out, "--report", tmp_path / "absent" / "r.json", mentions=["absent"])


@pytest.mark.parametrize("taken", ["in.onnx", "out.onnx"])
def test_report_in_place_of_a_model(fails, file, out, tmp_path, taken):
    fails(2, file("resnet20"), out, "--report", tmp_path / taken, mentions=[taken])


@pytest.mark.parametrize("option", ["--report", "--plan", None])
def test_files_that_are_read_are_no_place_to_write(fails, file, out, tmp_path, option):
    data = tmp_path / "samples.npz"
    np.savez(data, input=np.zeros((2, 3, 32, 32), np.float32))
    before = data.read_bytes()
    places = [data] if option is None else [out, option, data]
    fails(2, file("resnet20"), *places, "--data", data, mentions=["samples.npz"])
    assert data.read_bytes() == before


@pytest.mark.parametrize("option", ["--report", None])
def test_external_data_is_no_place_to_write(fails, network, out, tmp_path, option):
    onnx.save(network("resnet20"), tmp_path / "in.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    data = tmp_path / "weights"
    before = data.read_bytes()
    places = [data] if option is None else [out, option, data]
    fails(2, tmp_path / "in.onnx", *places, mentions=["weights"])
    assert data.read_bytes() == before


# --- targets out of reach --------------------------------------------------------------------------------------------


def test_unreachable_target_says_the_best_reachable(fails, run, file, out, count):
    path = file("resnet20")
    line = fails(4, path, out, "--target", "macs=0.0001", "--round-to", "1", mentions=["macs", "best reachable"])
    (best,) = re.findall(r"(\d+)(?= \(0\.\d+ of \d+\) is the best reachable)", line)
    assert run(path, out, "--target", f"macs={best}", "--round-to", "1").status == 0
    assert count(onnx.load(out), input=(1, 3, 32, 32)).macs == int(best)


def test_only_the_target_out_of_reach_is_blamed(fails, file, out):
    line = fails(4, file("resnet20"), out, "--target", "macs=0.9", "--target", "size=1000B", mentions=["size"])
    assert "macs" not in line


def test_no_removable_channel(fails, file, out, parsed):
    model = parsed(CONV_NET.replace("b = Relu (a)", "b = Identity (x)"), **CONV_WEIGHTS | {"w2": (16, 3, 1, 1)})
    del model.graph.node[2:], model.graph.initializer[1:]
    model.graph.node[1].CopyFrom(helper.make_node("Relu", ["a"], ["y"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, "H", "W"]))
    fails(4, file(model), out, mentions=["no channel can be removed"])


@pytest.mark.parametrize("target", ["macs=0.5", "params=0.5", "channels=0.5", "size=50%"])
def test_integer_graph(fails, file, out, target):
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 4]) for name in "xy"]
    weight = numpy_helper.from_array(np.arange(4), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "ints", values[:1], values[1:], [weight])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    fails(4, file(model), out, "--target", target, mentions=["no channel can be removed"])


# --- output that is whole, old or new --------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from onnx_reconvene.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("options", [(), ("--no-verify",)])
def test_full_disk(command, file, out, tmp_path, options):
    path = file("resnet20")
    ran = command(path, out, *options, python=FULL_DISK)
    assert ran.status in (2, 3)
    (line,) = ran.err.splitlines()
    assert "too large" in line
    assert "internal error" not in line
    assert out.read_bytes() == OLD
    assert set(tmp_path.iterdir()) == {path, out}


@pytest.mark.parametrize("moment", ["the first byte is written", "the output changes"])
def test_killed_while_writing(command, file, out, tmp_path, moment):
    path = file("vgg16-bn")
    words = ["--no-verify", "--target", "channels=0.9", "--round-to", "1"]
    assert command(path, tmp_path / "new.onnx", *words).status == 0
    new = (tmp_path / "new.onnx").read_bytes()

    def reached():
        return list(tmp_path.glob("*.part")) if moment == "the first byte is written" else out.stat().st_size != len(OLD)

    for _ in range(5):
        out.write_bytes(OLD)
        line = [sys.executable, "-m", "onnx_reconvene", str(path), str(out), *words]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not reached():
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert out.read_bytes() in (OLD, new)
        if process.returncode == -signal.SIGKILL:
            return
    pytest.fail("the command was never caught in the act")


def test_large_model_is_whole_whatever_happens(run, file, tmp_path, monkeypatch):
    """Over the size limit of protobuf, weights lie beside OUT: a second run that fails half-way must not mix two models."""
    monkeypatch.setattr("onnx_reconvene.files.PROTOBUF_LIMIT", 2**20 + 100_000)
    path, out = file("resnet20"), tmp_path / "out.onnx"
    assert run(path, out).status == 0
    assert any(t.external_data for t in onnx.load(out, load_external_data=False).graph.initializer)
    onnx.checker.check_model(str(out))
    before = flat(out)
    replace, calls = os.replace, []

    def fail_at_last(source, target):
        calls.append(target)
        if Path(target) == out:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_last)
    ran = run(path, out, "--target", "channels=0.3")
    monkeypatch.setattr(os, "replace", replace)
    assert ran.status == 2
    assert calls
    after = flat(out)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert set(tmp_path.iterdir()) == {path, out, *weights_beside(out)}


def weights_beside(path):
    """Return the files that hold the external data of a model."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {path.parent / entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


@pytest.fixture
def large(run, file, tmp_path, monkeypatch):
    """Return a large model as this program has written it, and the file beside it."""
    monkeypatch.setattr("onnx_reconvene.files.PROTOBUF_LIMIT", 2**20 + 100_000)
    out = tmp_path / "out.onnx"
    assert run(file("resnet20"), out).status == 0
    (data,) = weights_beside(out)
    return out, data


@pytest.mark.parametrize("limit", [2**20 + 100_000, 2**31])
def test_weights_of_the_old_model_go(large, run, file, tmp_path, monkeypatch, limit):
    out, data = large
    foreign = [tmp_path / name for name in ("out.onnx.data", "out.onnx.0123456789ab.data", f"{data.name}.bak", f"a{data.name}")]
    for path in foreign:
        path.write_bytes(b"not ours")
    monkeypatch.setattr("onnx_reconvene.files.PROTOBUF_LIMIT", limit)
    assert run(file("resnet20"), out, "--target", "channels=0.3").status == 0
    assert not data.exists()
    assert set(tmp_path.iterdir()) == {tmp_path / "in.onnx", out, *weights_beside(out), *foreign}
    assert bool(weights_beside(out)) == (limit < 2**31)
    onnx.checker.check_model(str(out))


def test_weights_that_another_model_refers_to_stay(large, run, file, tmp_path):
    out, data = large
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(out.read_bytes())
    (tmp_path / "link.onnx").symlink_to(out)  # which is no other
    assert run(file("resnet20"), out, "--target", "channels=0.3").status == 0
    onnx.checker.check_model(str(copy))
    copy.unlink()
    (data,) = weights_beside(out)
    assert run(file("resnet20"), out).status == 0
    assert not data.exists()


def test_the_same_weights_stay(large, run, file):
    out, data = large
    assert run(file("resnet20"), out).status == 0
    assert weights_beside(out) == {data}
    onnx.checker.check_model(str(out))


def test_weights_lie_beside_the_model_that_a_link_names(large, run, file, tmp_path):
    out, _ = large
    before = flat(out)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.onnx"
    link.symlink_to(out)
    assert run(file("resnet20"), link, "--target", "channels=0.3").status == 0
    assert list(link.parent.iterdir()) == [link]
    assert set(tmp_path.iterdir()) == {tmp_path / "in.onnx", out, link.parent, *weights_beside(out)}
    assert flat(out).keys() == before.keys()
    onnx.checker.check_model(str(out))


def test_output_may_equal_input(run, file, tmp_path):
    path = file("resnet20")
    assert run(path, tmp_path / "apart.onnx").status == 0
    assert run(path, path).status == 0
    assert path.read_bytes() == (tmp_path / "apart.onnx").read_bytes()


def test_output_may_equal_input_with_external_data(run, file, network, tmp_path):
    assert run(file("resnet20", "plain.onnx"), tmp_path / "apart.onnx").status == 0
    onnx.save(network("resnet20"), tmp_path / "in.onnx", save_as_external_data=True, location="in.onnx.data")
    data = (tmp_path / "in.onnx.data").read_bytes()
    assert run(tmp_path / "in.onnx", tmp_path / "in.onnx").status == 0
    assert (tmp_path / "in.onnx").read_bytes() == (tmp_path / "apart.onnx").read_bytes()
    assert (tmp_path / "in.onnx.data").read_bytes() == data


def test_output_through_a_link(run, file, out, tmp_path):
    link = tmp_path / "link.onnx"
    link.symlink_to(out)
    assert run(file("resnet20"), link).status == 0
    assert link.is_symlink()
    onnx.checker.check_model(str(out))


def test_output_keeps_its_permissions(run, file, out):
    out.chmod(0o640)
    assert run(file("resnet20"), out).status == 0
    assert out.stat().st_mode & 0o777 == 0o640


def test_input_is_never_modified(run, file, out):
    path = file("resnet20")
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert run(path, out).status == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# --- networks out of the ordinary ------------------------------------------------------------------------------------


def test_operator_of_an_unknown_domain_freezes_what_it_touches(run, file, out, parsed, tmp_path):
    model = parsed(CONV_NET.replace("N,3,H,W", "1,3,8,8").replace("N,4", "1,4"), **CONV_WEIGHTS)
    model.graph.node[1].CopyFrom(helper.make_node("Foo", ["a"], ["b"], "foo", domain="acme"))
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 16, 8, 8]))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    path, report = file(model), tmp_path / "r.json"
    assert run(path, out, "--target", "channels=0.5", "--round-to", "1", "--report", report).status == 0
    found = json.loads(report.read_text())
    assert [(f["tensor"], f["channels"]) for f in found["frozen"] if "foo" in f["reason"]] == [("w1", 16)]
    assert found["verify"]["status"] == "skipped"
    assert found["verify"]["reason"]
    assert {name: weight.shape for name, weight in flat(out).items()} == {"w1": (16, 3, 3, 3), "w2": (8, 16, 1, 1), "w3": (4, 8)}


@pytest.mark.parametrize("quiet", [True, False])
def test_untrained_network_that_onnxruntime_does_not_run(run, file, out, parsed, quiet):
    rng = np.random.default_rng(0)
    weights = {"w1": (16, 3, 3, 3), "w2": (16, 16, 1, 1), "w3": (4, 16)}
    body = """< ir_version: 9, opset_import: ["" : 18] > g (float[1,3,8,8] x) => (float[1,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1, zero) b = Relu (a) c = Conv (b, w2, zero) d = Relu (c)
        e = GlobalAveragePool (d) f = Flatten (e) h = Gemm <transB = 1> (f, w3) y = Identity (h) }"""
    model = parsed(body)
    arrays = {name: rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape) for name, shape in weights.items()}
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in {**arrays, "zero": np.zeros(16)}.items()
    )
    model.graph.node[-1].CopyFrom(helper.make_node("Foo", ["h"], ["y"], "foo", domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    ran = run(file(model), out, "--target", "macs=0.5", "--round-to", "1", *(["-q"] if quiet else []))
    assert ran.status == 0, ran.err
    assert flat(out)["w1"].shape[0] < 16
    warned = "onnx-reconvene: synflow has no rule for Foo 'foo'; the flow there is spread evenly\n"
    assert ran.err == ("" if quiet else warned)
    assert ("synflow, reconvene" in ran.out) is not quiet


def test_free_batch_and_image_size(run, file, out, parsed):
    assert run(file(parsed(CONV_NET, **CONV_WEIGHTS)), out).status == 0
    assert flat(out)["w2"].shape < (16, 16)
    for shape in [(1, 3, 8, 8), (3, 3, 8, 8), (1, 3, 32, 16), (2, 3, 5, 7)]:
        (y,) = feed(out, x=shape)
        assert y.shape == (shape[0], 4)
    (value,) = onnx.load(out).graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 3, "H", "W"]


def test_mask_of_infinities_is_no_fault(run, file, out, parsed):
    model = parsed(CONV_NET, **CONV_WEIGHTS)
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Max", ["z", "floor"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.full(4, -np.inf, np.float32), "floor"))
    assert run(file(model), out).status == 0


# --- verification ----------------------------------------------------------------------------------------------------


def slip(graph, name, change):
    """Change a weight of a graph by a function."""
    tensor = graph.tensors()[name]
    tensor.values = np.ascontiguousarray(change(np.array(tensor.values)))


FAULTS = {
    "scaled": lambda graph: slip(graph, "layer1.1.conv1.weight", lambda w: w * 1.1),
    "swapped": lambda graph: slip(graph, "layer1.1.conv1.weight", lambda w: w[[1, 0, *range(2, len(w))]]),
    "norm-of-another-channel": lambda graph: slip(graph, "layer1.1.bn1.bias", lambda b: b + np.eye(1, b.size, 2, dtype=b.dtype)[0]),
    "one-channel-too-few": lambda graph: slip(graph, "layer1.1.conv1.weight", lambda w: w[1:]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verification_failure(fails, file, out, tmp_path, monkeypatch, fault):
    from onnx_reconvene.cut import cut

    def faulty(analysis, keep):
        cut(analysis, keep)
        FAULTS[fault](analysis.graph)

    monkeypatch.setattr("onnx_reconvene.passes.cut.cut", faulty)
    report = tmp_path / "r.json"
    words = [file("resnet20"), out, "--target", "channels=0.5", "--round-to", "1", "--report", report]
    fails(5, *words, mentions=["verification failed"])
    assert not report.exists()


TYPES = "float double float16 bfloat16 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool"
TYPED = """<ir_version: 9, opset_import: ["" : 18]>
    net (TYPE[n,8] i) => (float[n,4] y) { x = Cast<to = 1>(i) h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"""


@pytest.mark.parametrize("kind", TYPES.split())
def test_inputs_of_every_type_are_verified(parsed, kind):
    model = parsed(TYPED.replace("TYPE", kind), w1=(8, 32), w2=(32, 4))
    assert onnx_reconvene.prune(model, rectify="none").report.verify.status == "exact"


def test_inputs_that_cannot_be_drawn_are_named(parsed):
    verdict = onnx_reconvene.prune(parsed(TYPED.replace("TYPE", "string"), w1=(8, 32), w2=(32, 4)), rectify="none").report.verify
    assert (verdict.status, verdict.reason) == ("skipped", "no values can be drawn for input 'i', a tensor(string)")


def test_programs_find_each_other(monkeypatch, network):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert onnx_reconvene.prune(network("resnet20")).report.verify.status == "exact"


ROOTS = """<ir_version: 9, opset_import: ["" : 18]>
    net (float[n,8] x) => (float[n,4] y) { h = MatMul(x, w1) r = Sqrt(h) y = MatMul(r, w2) }"""


@pytest.fixture
def roots():
    """Return a function that makes a network of square roots, all of whose outputs are NaN if one is of a number below zero."""

    def make(w1):
        model = onnx.parser.parse_model(ROOTS)
        w2 = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
        model.graph.initializer.extend([numpy_helper.from_array(w1.astype(np.float32), "w1"), numpy_helper.from_array(w2, "w2")])
        return model

    return make


def test_where_nothing_is_finite_other_inputs_are_tried(roots, monkeypatch):
    from onnx_reconvene.cut import cut

    def faulty(analysis, keep):
        cut(analysis, keep)
        slip(analysis.graph, "w2", lambda w: w * 1.1)

    model = roots(np.tile(np.eye(8), 4))
    assert onnx_reconvene.prune(model, rectify="none").report.verify.status == "exact"
    monkeypatch.setattr("onnx_reconvene.passes.cut.cut", faulty)
    with pytest.raises(onnx_reconvene.VerificationError, match="is off by"):
        onnx_reconvene.prune(model, rectify="none")


def test_nothing_finite_is_no_proof(run, file, out, tmp_path, roots):
    path = file(roots(np.repeat([[1.0, -1.0]], 8, 0).repeat(16, 1)))
    ran = run(path, out, "--rectify", "none", "--report", tmp_path / "r.json")
    assert ran.status == 0
    verdict = json.loads((tmp_path / "r.json").read_text())["verify"]
    assert (verdict["status"], verdict["max_rel_err"]) == ("unproven", None)
    assert verdict["reason"] == "the outputs of the original hold nothing finite on any inputs that were tried"
    assert verdict["reason"] in ran.out


def test_sizes_at_which_the_original_does_not_run_are_no_fault(run, file, out, parsed):
    model = parsed(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[n,3,h,w] x) => (float[n,4,p,q] y) { a = Conv (x, v) y = Conv (a, w1) }',
        v=(8, 3, 1, 1),
        w1=(4, 8, 1, 1),
    )
    ran = run(file(model), out, "--input-shape", "x=1,3,999999,999999")
    assert ran.status == 0
    assert "verification: skipped (onnxruntime does not run the original: Unable to allocate" in ran.out
    assert "(1, 3, 999999, 999999)" in ran.out


def test_no_verify_leaves_the_check_out(run, file, out, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_reconvene.passes.verify.verify", lambda *_: pytest.fail("verified"))
    assert run(file("resnet20"), out, "--no-verify", "--report", tmp_path / "r.json").status == 0
    assert json.loads((tmp_path / "r.json").read_text())["verify"]["status"] == "skipped"


# --- what is printed -------------------------------------------------------------------------------------------------


def test_summary(run, file, out, count):
    path = file("resnet20")
    ran = run(path, out)
    assert ran.err == ""
    shape = {"input": (1, 3, 32, 32)}
    before, after = count(onnx.load(path), **shape), count(onnx.load(out), **shape)
    lines = ran.out.splitlines()
    for label, kind in (("parameters", "params"), ("MACs", "macs"), ("weight bytes", "bytes")):
        (row,) = [line for line in lines if line.startswith(label)]
        assert f"{getattr(before, kind):,}" in row
        assert f"{getattr(after, kind):,}" in row
    assert len([line for line in lines if "frozen" in line]) == 1


def test_quiet_prints_nothing(run, file, out):
    ran = run(file("resnet20"), out, "-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert out.read_bytes() != OLD


def test_verbose_adds_seconds(run, file, out):
    path = file("resnet20")
    plain, verbose = run(path, out).out.splitlines(), run(path, out, "-v").out.splitlines()
    assert verbose[: len(plain)] == plain
    head, *groups = [line.split() for line in verbose[len(plain) : -1]]
    assert head == ["group", "units", "kept", "sensitivity"]
    felt = [float(group[3]) for group in groups]
    assert felt == sorted(felt, reverse=True)
    assert felt[0] > felt[-1]
    assert re.fullmatch(r"seconds: load [\d.]+, analyse [\d.]+, .*, total [\d.]+", verbose[-1])


def test_verbose_adds_the_traceback(run, out, tmp_path):
    ran = run(tmp_path / "absent.onnx", out, "-v")
    assert ran.status == 3
    assert "Traceback" in ran.err
    assert "absent.onnx" in ran.err.splitlines()[-1]


PRINTING = {"prune": ["IN", "OUT"], "inspect": ["inspect", "IN"], "list": ["--criterion", "list"], "help": ["--help"]}


@pytest.mark.parametrize("words", PRINTING.values(), ids=PRINTING)
def test_nobody_reads_what_is_printed(file, out, words):
    """That is no failure of what was done."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = printing_to(writer, words, file(), out)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (out.read_bytes() != OLD) == ("OUT" in words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", PRINTING.values(), ids=PRINTING)
def test_what_is_printed_cannot_be_written(file, out, words):
    ran = printing_to(os.open("/dev/full", os.O_WRONLY), words, file(), out)
    assert (ran.returncode, ran.stderr) == (2, "onnx-reconvene: standard output cannot be written: No space left on device\n")
    assert (out.read_bytes() != OLD) == ("OUT" in words)


def printing_to(stdout, words, source, out):
    """Run the command line in a process of its own that prints to a file descriptor, which is closed then."""
    line = [sys.executable, "-m", "onnx_reconvene", *({"IN": source, "OUT": out}.get(word, word) for word in words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        return subprocess.run(
            line, cwd=Path(__file__).parents[1], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    finally:
        os.close(stdout)


@pytest.mark.parametrize("with_output", [True, False])
def test_dry_run_writes_nothing(run, file, out, with_output, tmp_path):
    path = file("resnet20")
    ran = run(path, *([out] if with_output else []), "--dry-run")
    assert ran.status == 0
    assert out.read_bytes() == OLD
    assert set(tmp_path.iterdir()) == {path, out}
    assert ran.out == run(path, out).out


def piped(*words, stdin):
    """Run the command line in a process of its own, a model on its standard input; what it prints stays bytes."""
    line = [sys.executable, "-m", "onnx_reconvene", *map(str, words)]
    return subprocess.run(line, cwd=Path(__file__).parents[1], input=stdin, capture_output=True, check=False)


def test_a_dash_is_standard_input_and_output(run, file, out):
    path, options = file("resnet20"), ["--criterion", "l1", "--no-verify"]
    printed = run(path, out, *options).out
    ran = piped("-", "-", *options, stdin=path.read_bytes())
    assert (ran.returncode, ran.stderr.decode()) == (0, printed)
    assert ran.stdout == out.read_bytes()
    ran = piped("-", "-", "--target", "macs=0.0001", stdin=path.read_bytes())
    assert (ran.returncode, ran.stdout) == (4, b"")
    ran = piped("-", "-", stdin=b"no model")
    assert (ran.returncode, ran.stdout) == (3, b"")
    assert ran.stderr.startswith(b"onnx-reconvene: standard input: not an ONNX model")


def test_a_dash_is_standard_input_for_inspect_and_compare(run, file):
    path = file("resnet20")
    assert piped("inspect", "-", stdin=path.read_bytes()).stdout.decode() == run("inspect", path).out
    assert b"verification: exact" in piped("compare", path, "-", stdin=path.read_bytes()).stdout
    assert piped("compare", "-", "-", stdin=path.read_bytes()).returncode == 2


def test_criteria_are_listed_with_summary_and_source(run):
    ran = run("--criterion", "list")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == list(criteria)
    for line, criterion in zip(lines, criteria.values(), strict=True):
        assert criterion.summary in line
        assert criterion.source in line


def test_help_names_every_option_and_command(run):
    text = run("--help").out
    options = ["target", "criterion", "allocate", "round-to", "ignore", "only", "keep", "input-shape", "report", "no-verify"]
    for option in [*options, "dry-run", "seed"]:
        assert f"--{option}" in text
    assert "inspect" in text


def test_inspect(run, file):
    path = file("resnet20")
    before = path.read_bytes()
    ran = run("inspect", path)
    assert ran.status == 0
    analysis = onnx_reconvene.analyze(path)
    rows = [line.split() for line in ran.out.splitlines()]
    assert {(g.name, str(g.width)) for g in analysis.groups} <= {tuple(row[:2]) for row in rows}
    assert "fc.weight" in ran.out
    assert "'logits' is a graph output" in ran.out
    assert path.read_bytes() == before


def test_the_only_unit_of_a_group_is_not_said_to_be_removable(run, parsed, file):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
        h = Conv(x, a)  i = Constant<value_ints = [1,0]>()  g = Gather<axis = 1>(h, i)  r = Add(h, g)
        s = Conv(r, b)  t = Relu(s)  y = Conv(t, c) }"""
    path = file(parsed(text, a=(2, 3, 1, 1), b=(6, 2, 1, 1), c=(4, 6, 1, 1)))
    out = run("inspect", path).out
    assert "6 of 12 output channels of layers can go, in 1 group of channels" in out
    assert re.search(r"^ +2  \w+ +it is the only unit of its group$", out, re.M)
    pruned = run(path, path.with_name("out.onnx"), "--target", "channels=0.5", "--round-to", "1", "--no-verify").out
    assert re.search(r"1 of 1 groups pruned .*: \d of 6 removable units gone", pruned)


def test_inspect_of_a_missing_file(fails, tmp_path):
    fails(3, "inspect", tmp_path / "absent.onnx", mentions=["absent.onnx"])


def test_inspect_without_a_file(fails):
    fails(2, "inspect", mentions=["IN.onnx"])


def on_a_terminal(code, *words):
    """Run Python code with a terminal for its stderr and return what it shows there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(master)
    assert process.returncode == 0, shown
    return shown.decode()


SLOW = """
import sys, time
from onnx_reconvene import criterion
from onnx_reconvene.cli import main
pause = float(sys.argv.pop())
@criterion("slow", "a test")
def slow(analysis, context):
    "Takes its time."
    time.sleep(pause)
    return context.rng.random(analysis.width)
sys.exit(main())
"""


def test_progress_bar_on_a_terminal_for_work_over_a_second(file, out, tmp_path):
    path = tmp_path / "r.json"
    words = [file("resnet20"), out, "--criterion", "slow", "--allocate", "uniform", "--report", path]
    assert "/7" in on_a_terminal(SLOW, *words, 1.2)
    shown = on_a_terminal(SLOW, *words, "--no-verify", 0).strip()
    if json.loads(path.read_text())["seconds"]["total"] < 1:  # on a busy machine it may not be
        assert shown == ""


def test_no_progress_bar_when_piped(command, file, out):
    ran = command(file("resnet20"), out, "--criterion", "slow", 1.2, python=SLOW)
    assert (ran.status, ran.err) == (0, "")


# --- the report ------------------------------------------------------------------------------------------------------

KEYS = {
    "": "version input output criterion allocate seed stage input_shapes input_sizes before after groups frozen verify rectify "
    "repair seconds data latency score_kept counting rounding",
    "before": "params macs bytes nodes latency_ms memory",
    "after": "params macs bytes nodes latency_ms memory",
    "verify": "status max_rel_err reason",
    "rectify": "mode why tensors",
    "seconds": "load analyse score allocate cut verify rectify repair write total",
    "groups": "name width kept sensitivity pruned sites",
    "frozen": "tensor channels reason",
}


@pytest.fixture
def reported(run, file, out, tmp_path):
    """Prune resnet20 and return the report on it."""
    path = tmp_path / "r.json"
    words = ["--criterion", "l1", "--allocate", "global", "--seed", 3, "--target", "params=0.4", "--round-to", 1, "--report", path]
    assert run(file("resnet20"), out, *words).status == 0
    return json.loads(path.read_text())


def test_report_has_the_keys_of_the_contract(reported):
    for place, keys in KEYS.items():
        found = reported[place] if place else reported
        for entry in found if isinstance(found, list) else [found]:
            assert sorted(entry) == sorted(keys.split()), place


def test_report_says_what_was_asked(reported, out, tmp_path):
    assert reported["version"] == 1
    assert (reported["input"], reported["output"]) == (str(tmp_path / "in.onnx"), str(out))
    assert (reported["criterion"], reported["allocate"], reported["seed"]) == ("l1", "global", 3)
    assert reported["stage"] == "initialized"
    assert reported["input_shapes"] == {"input": [1, 3, 32, 32]}


def test_report_counts_truly(reported, count):
    for side, path in (("before", "input"), ("after", "output")):
        model = onnx.load(reported[path])
        size = count(model, input=(1, 3, 32, 32))
        wanted = {"params": size.params, "macs": size.macs, "bytes": size.bytes, "nodes": len(model.graph.node)}
        assert {key: reported[side][key] for key in wanted} == wanted
    assert reported["after"]["params"] <= 0.4 * reported["before"]["params"]


def test_report_says_which_channels_went(reported):
    before, after = flat(reported["input"]), flat(reported["output"])
    gone = {(name, axis): 0 for name in before for axis in range(before[name].ndim)}
    for group in reported["groups"]:
        assert group["pruned"] == (group["kept"] < group["width"])
        assert 1 <= group["kept"] <= group["width"]
        for name, axis in group["sites"]:
            gone[name, axis] += group["width"] - group["kept"]
    assert gone == {(n, axis): before[n].shape[axis] - after[n].shape[axis] for n, axis in gone}
    assert reported["frozen"] == [{"tensor": "fc.weight", "channels": 10, "reason": "'logits' is a graph output"}]


def test_report_on_verification_and_time(reported):
    assert reported["verify"]["status"] == "exact"
    assert 0 <= reported["verify"]["max_rel_err"] < 1e-3
    seconds = dict(reported["seconds"])
    total = seconds.pop("total")
    assert all(s >= 0 for s in seconds.values())
    assert 0 < sum(seconds.values()) <= total


def test_trained_network_is_recognized(run, file, out, network, tmp_path):
    model = network("resnet20")
    tensor = next(t for t in model.graph.initializer if t.name == "layer1.0.bn1.running_mean")
    tensor.CopyFrom(numpy_helper.from_array(np.full(16, 0.5, np.float32), tensor.name))
    assert run(file(model), out, "--report", tmp_path / "r.json").status == 0
    assert json.loads((tmp_path / "r.json").read_text())["stage"] == "trained"


def test_params_count_float_initializers_that_no_node_reads(run, file, out, parsed, count, tmp_path):
    model = parsed(CONV_NET, **CONV_WEIGHTS, unused=(5, 7))
    path = file(model)
    assert run(path, out, "--report", tmp_path / "r.json").status == 0
    report = json.loads((tmp_path / "r.json").read_text())
    shape = {"x": tuple(report["input_shapes"]["x"])}
    assert report["before"]["params"] == count(model, **shape).params
    assert report["after"]["params"] == count(onnx.load(out), **shape).params


def test_macs_follow_the_given_input_shape(run, file, out, parsed, count, tmp_path):
    model = parsed(CONV_NET, **CONV_WEIGHTS)
    assert run(file(model), out, "--input-shape", "x=1,3,20,12", "--report", tmp_path / "r.json").status == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["before"]["macs"] == count(model, x=(1, 3, 20, 12)).macs
    assert report["after"]["macs"] == count(onnx.load(out), x=(1, 3, 20, 12)).macs


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["l2", "random"])
def test_same_seed_gives_the_same_bytes(command, file, tmp_path, criterion):
    path, contents = file("resnet20"), []
    for number in range(2):
        out = tmp_path / f"{number}.onnx"
        code = "import sys; from onnx_reconvene.cli import main; sys.exit(main())"
        ran = command(path, out, "--criterion", criterion, "--seed", 5, python=code, PYTHONHASHSEED=str(number))
        assert ran.status == 0
        contents.append(out.read_bytes())
    assert contents[0] == contents[1]


def test_another_seed_gives_other_bytes(run, file, tmp_path):
    path = file("resnet20")
    for seed in (0, 1):
        assert run(path, tmp_path / f"{seed}.onnx", "--criterion", "random", "--seed", seed).status == 0
    assert (tmp_path / "0.onnx").read_bytes() != (tmp_path / "1.onnx").read_bytes()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx_ir", "tensorflow"):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Blocker())
from onnx_reconvene.cli import main
sys.exit(main())
"""


def test_no_framework_is_imported(command, file, out):
    ran = command(file("resnet20"), out, python=BLOCKED)
    assert (ran.status, ran.err) == (0, "")
    assert out.read_bytes() != OLD


def test_command_of_its_own_process(command, file, out):
    assert command(file("resnet20"), out).status == 0
    onnx.checker.check_model(str(out), full_check=True)
    failed = command(out.parent / "absent.onnx", out)
    assert failed.status == 3
    assert len(failed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--data", "samples.npz"], "--data"),
        (["--criterion", "l2", "--loss", "cross-entropy"], "--loss"),
        (["--image", "resize=8"], "--image"),
        (["--provider", "CUDAExecutionProvider"], "--provider"),
        (["--target", "macs=0.5", "--latency-table", "table.json"], "--latency-table"),
    ],
)
def test_options_that_nothing_looks_at_are_refused(fails, file, tmp_path, words, option):
    fails(2, file("resnet20"), tmp_path / "out.onnx", *words, mentions=[f"{option}: nothing here"])


def test_a_latency_job_writes_nothing_else(fails, file, tmp_path):
    fails(2, file("resnet20"), tmp_path / "out.onnx", "--latency-job", tmp_path / "job.zip", mentions=["OUT.onnx", "--latency-job"])
    assert not (tmp_path / "job.zip").exists()
