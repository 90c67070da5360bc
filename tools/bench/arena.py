"""Runs a network in onnxruntime on an arena that takes no more than it is asked for, and lets it say so.

usage: python tools/bench/arena.py IN.onnx
"""

import sys

import numpy as np
import onnxruntime as ort

from onnx_reconvene.graph import load
from onnx_reconvene.sizes import input_sizes

RUN = "RUN"  # marks the beginning of a run in what is said


def main(path: str) -> None:
    """Run twice: from what the first run needs, the second knows all of it at the beginning."""
    sizes = input_sizes(load(path), {})
    ort.set_default_logger_severity(0)
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": 1, "initial_chunk_size_bytes": 256}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feeds = {i.name: np.zeros(sizes[i.name], kinds[i.type]) for i in session.get_inputs()}
    for _ in range(2):
        print(RUN, file=sys.stderr, flush=True)
        session.run(None, feeds)


if __name__ == "__main__":
    main(sys.argv[1])
