"""Same seed, same output, byte for byte: in any process, on any number of threads."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

RUN = """
import os, sys
if sys.argv[1] == "1":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from onnx_reconvene.cli import main
sys.exit(main(sys.argv[2:]))
"""
WAYS = {
    "l2": ["--target", "macs=0.4"],
    "reconvene": ["--criterion", "synflow", "--allocate", "reconvene", "--target", "params=0.3"],
    "exact": ["--criterion", "synflow-exact", "--allocate", "erk", "--round-to", "1"],
    "fpgm": ["--criterion", "fpgm", "--allocate", "global"],
    "random": ["--criterion", "random", "--seed", "7"],
    "taylor": ["--criterion", "taylor", "--data", "samples.npz", "--allocate", "global"],
    "snip": ["--criterion", "snip", "--data", "samples.npz", "--allocate", "reconvene"],
    "steps": ["--criterion", "synflow", "--steps", "2", "--allocate", "precrop"],
    "weight": ["--criterion", "synflow", "--granularity", "weight"],
}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to take processors away")
@pytest.mark.parametrize("way", WAYS)
def test_threads_and_processes_change_nothing(network, tmp_path, way):
    onnx.save(network("resnet20"), tmp_path / "in.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", input=rng.standard_normal((20, 3, 32, 32), np.float32), labels=rng.integers(0, 10, 20))
    written = []
    for threads, hashing in (("1", "0"), ("all", "1")):
        limits = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads} if threads == "1" else {}
        environment = {**os.environ, **limits, "PYTHONHASHSEED": hashing}
        command = [sys.executable, "-c", RUN, threads, "in.onnx", f"out{threads}.onnx", "-q", "--no-verify", *WAYS[way]]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        written.append((tmp_path / f"out{threads}.onnx").read_bytes())
    assert written[0] == written[1]
