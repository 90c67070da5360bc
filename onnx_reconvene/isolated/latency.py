"""Times models against each other, one run of each in turn. A program of its own, so that nothing else runs in its process:
`python latency.py JOB.json` prints the median milliseconds of each as a JSON list."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from compare import draw  # type: ignore[import-not-found]  # the module beside this one

SECONDS, WARM_UP = 2.0, 3


def medians(job: dict[str, Any]) -> list[float]:
    """Return the median milliseconds of one run of each model of job, inputs drawn at its sizes."""
    sessions = []
    for path in job["models"]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = job["threads"]
        sessions.append(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    feeds = {i.name: draw(i.type, job["sizes"][i.name], np.random.default_rng(0)) for i in sessions[0].get_inputs()}
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + SECONDS * len(sessions)
    while time.perf_counter() < end or len(times[0]) < WARM_UP + 5:
        for session, own in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feeds)
            own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own[WARM_UP:]) for own in times]


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(json.dumps(medians(json.load(file))))
