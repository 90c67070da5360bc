"""Pruning as a pass of Olive, whose workflows convert, optimize and quantize networks. Needs `pip install 'onnx-reconvene[olive]'`.

    python -m onnx_reconvene.olive > packages.json
    olive run --config workflow.json --package-config packages.json

A workflow names it like Olive's own passes: {"passes": {"prune": {"type": "Reconvene", "target": "macs=0.5"}, ...}, ...}.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnx_reconvene.api import prune
from onnx_reconvene.options import Options, flag

ANYWHERE = ("supported_providers", "supported_accelerators", "supported_precisions")
FILE = "from_plan"  # the option whose value is never but the path of a file here


class Reconvene(Pass):
    """Remove whole channels of an ONNX network. The parameters are the options of `onnx_reconvene.prune`."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        types = get_type_hints(Options, localns={"Plan": str})
        return {
            option.name: PassConfigParam(
                type_=str if option.name == FILE else types[option.name],
                default_value=option.default if option.default is not MISSING else {},
                description=f"Option {flag(option.name)} of the command onnx-reconvene",
            )
            for option in fields(Options)
        }

    def _run_for_config(self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str) -> ONNXModelHandler:
        path = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        given = {name: value for name, value in config.model_dump().items() if value is not None}
        prune(model.model_path, **given).save(path)
        if len(list(path.parent.iterdir())) == 1:
            return ONNXModelHandler(model_path=str(path))
        return ONNXModelHandler(model_path=str(path.parent), onnx_file_name=path.name)  # with the weights that lie beside


def package_config() -> dict[str, Any]:
    """Return Olive's own table of passes with this one added, as `olive run --package-config` reads it."""
    table: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    table["passes"][Reconvene.__name__] = {"module_path": f"onnx_reconvene.olive.{Reconvene.__name__}"} | {
        key: ["*"] for key in ANYWHERE
    }
    return table


if __name__ == "__main__":
    print(json.dumps(package_config(), indent=4))
