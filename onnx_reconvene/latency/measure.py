"""Jobs for the program that measures: kernels and whole networks, here or to be taken to a device."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.files import replacing
from onnx_reconvene.graph import Source
from onnx_reconvene.latency.kernels import Kernel
from onnx_reconvene.latency.runtime import CPU, Runtime
from onnx_reconvene.process import PROGRAMS, TIME_LIMIT, isolated, last_line, workplace
from onnx_reconvene.reference import store

UNUSABLE = 2  # exit status of a program whose options are wrong
PURPOSE = "measuring latency"
Sizes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Job:
    """What is to be measured: kernels, and whole networks with the sizes of their inputs, which take turns."""

    kernels: Sequence[Kernel] = ()
    networks: Mapping[str, tuple[Source, Sizes]] = field(default_factory=dict)

    def write(self, folder: str) -> None:
        """Write the models and `job.json` to folder."""
        kernels = {str(kernel): f"kernel{k}.onnx" for k, kernel in enumerate(self.kernels)}
        for kernel, name in zip(self.kernels, kernels.values(), strict=True):
            onnx.save(kernel.model(), os.path.join(folder, name))
        networks = {}
        for k, (key, (source, sizes)) in enumerate(self.networks.items()):
            name = os.path.basename(store(source, folder, f"network{k}"))
            networks[key] = {"file": name, "sizes": {of: list(shape) for of, shape in sizes.items()}}
        with open(os.path.join(folder, "job.json"), "w", encoding="utf-8") as file:
            json.dump({"kernels": kernels, "networks": networks}, file, indent=1)

    def run(self, runtime: Runtime) -> dict[str, float]:
        """Return the milliseconds of each kernel (by its text) and network, run in turn in a process of their own.

        Raises ModelError where onnxruntime does not run one of them, UsageError where it has no such provider.
        """
        with workplace(PURPOSE) as folder:
            self.write(folder)
            table = os.path.join(folder, "table.json")
            words = ["--threads", str(runtime.threads), "--provider", runtime.provider]
            try:
                done = isolated("measure.py", folder, table, *words)
            except subprocess.TimeoutExpired as error:
                raise ModelError(f"measuring latency took over {TIME_LIMIT} s; give smaller sizes with --input-shape") from error
            if done.returncode == UNUSABLE:
                raise UsageError(f"--provider {runtime.provider}: {last_line(done.stderr).partition('error: ')[2]}")
            if done.returncode:
                raise ModelError(f"onnxruntime does not run what is to be measured: {last_line(done.stderr)}")
            with open(table, encoding="utf-8") as file:
                values: dict[str, float] = json.load(file)["values"]
        return values

    def pack(self, path: str) -> None:
        """Write a zip file that measures the job where it is run: `python JOB.zip TABLE.json`. Raises UsageError where path
        cannot be written."""
        with workplace(PURPOSE) as folder:
            self.write(folder)
            with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(os.path.join(PROGRAMS, "measure.py"), "__main__.py")
                for name in sorted(os.listdir(folder)):
                    archive.write(os.path.join(folder, name), name)


def latencies(models: Sequence[Source], sizes: Sizes, threads: int = 0, provider: str = CPU) -> list[float]:
    """Return the milliseconds of one run of each model in onnxruntime, run in turn in a process of their own.

    Raises ModelError where onnxruntime does not run one of them, UsageError where it has no such provider.
    """
    job = Job(networks={str(k): (model, sizes) for k, model in enumerate(models)})
    return list(job.run(Runtime(threads, provider)).values())


def check_provider(provider: str) -> None:
    """Raise UsageError where onnxruntime has no such provider, before anything is measured with it."""
    if provider != CPU:
        Job().run(Runtime(provider=provider))
