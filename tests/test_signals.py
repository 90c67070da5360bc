"""The command cleans up whatever ends it; what kill -9 leaves goes at the next start; outputs take their places together."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_reconvene import files, process
from onnx_reconvene.errors import UsageError

STOPPED = """
import sys, time
from onnx_reconvene import cut, process
from onnx_reconvene.__main__ import main
from onnx_reconvene.passes import Verify

def wait(self, graph):
    with process.workplace("a test") as folder:
        open(folder + "/network", "w").close()
        print("ready", flush=True)
        time.sleep(60)

Verify.call = wait
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of temporary files, in this process and in others."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@contextlib.contextmanager
def waiting(file, tmp_path):
    """Start the command, and wait until it has a temporary folder with a network in it."""
    line = [sys.executable, "-c", STOPPED, str(file("resnet20")), str(tmp_path / "out.onnx"), "--report", str(tmp_path / "r.json")]
    line += ["--criterion", "l2", "--rectify", "none"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        yield running


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_nothing(file, folder, tmp_path, number, status):
    with waiting(file, tmp_path) as running:
        assert list(folder.glob("*/network"))
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    assert running.returncode == status
    (line,) = filter(None, said.splitlines())
    assert "nothing was written" in line
    assert not list(folder.iterdir())
    assert not (tmp_path / "out.onnx").exists()
    assert not (tmp_path / "r.json").exists()


def test_what_a_kill_leaves_is_swept(file, folder, tmp_path):
    with waiting(file, tmp_path) as running, process.workplace("another process that still runs") as other:
        running.kill()
        running.wait()
        left = list(folder.glob("*/network"))
        assert left
        until = time.monotonic() + 10
        while left[0].exists() and time.monotonic() < until:  # the child of the killed process is just ending
            process.sweep()
        assert os.listdir(folder) == [os.path.basename(other)]


def crash(number):
    """Return a program whose command ends by a signal of its own."""
    return f"""
import os, sys
from onnx_reconvene import cli
from onnx_reconvene.__main__ import main
cli.main = lambda: os.kill(os.getpid(), {int(number)})
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "status", "mentions"),
    [(signal.SIGBUS, 3, "shrank"), (signal.SIGKILL, 3, "memory"), (signal.SIGSEGV, 70, "internal error (native code)")],
)
def test_crash_of_the_command_is_one_line(number, status, mentions):
    ran = subprocess.run([sys.executable, "-c", crash(number)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == status
    (line,) = ran.stderr.splitlines()
    assert mentions in line


SHRINKING = """
import os, sys
from onnx_reconvene.__main__ import main
from onnx_reconvene.passes import Score
call = Score.call
def shrink(self, graph):
    os.truncate(sys.argv[1], 4096)
    return call(self, graph)
Score.call = shrink
sys.exit(main())
"""


def test_file_that_shrinks_is_one_line(file, tmp_path):
    path = file("resnet20")
    line = [sys.executable, "-c", SHRINKING, str(path), str(tmp_path / "out.onnx")]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 3
    (said,) = ran.stderr.splitlines()
    assert "shrank" in said


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_external_data_in_no_regular_file_is_refused_at_once(run, tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / "w.bin")
    elif kind == "device":
        (tmp_path / "w.bin").symlink_to("/dev/zero")
    else:
        (tmp_path / "w.bin").mkdir()
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.bin")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "in.onnx")
    ran = run(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert ran.status == 3
    (line,) = ran.err.splitlines()
    assert "'w'" in line


def test_outputs_take_their_places_together(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"before")

    def write_both(more):
        with files.together():
            files.write_whole(str(old), b"after")
            files.write_whole(str(new), b"after")
            assert old.read_bytes() == b"before"
            more()

    with pytest.raises(UsageError, match="disk"):
        write_both(disk_is_full)
    assert old.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [old]
    write_both(lambda: None)
    assert old.read_bytes() == new.read_bytes() == b"after"
    assert set(tmp_path.iterdir()) == {old, new}


def test_half_written_files_of_killed_processes_go(tmp_path):
    (tmp_path / "out.onnx.0123abcd.part").write_bytes(np.zeros(9).tobytes())
    files.write_whole(str(tmp_path / "out.onnx"), b"whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "out.onnx"]


def test_report_that_cannot_be_written_leaves_no_network(run, file, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_reconvene.api.write_whole", lambda *_: disk_is_full())
    path = file("resnet20")
    ran = run(path, tmp_path / "out.onnx", "--no-verify", "--report", tmp_path / "r.json", "--criterion", "l2")
    assert ran.status == 2
    assert "No space" in ran.err
    assert list(tmp_path.iterdir()) == [path]


def disk_is_full():
    raise UsageError("r.json: cannot be written: No space left on disk")
