"""``python -m models``: list the networks, or write one as an ONNX file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto

from models import NETWORKS, build, parameter_count


def main(arguments: Sequence[str]) -> None:
    """Run the command line; exit with status 2 and one line on stderr if it makes no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name == "list":
        for name in NETWORKS:
            print(_summary(name))
        return
    try:
        model = build(options.name, options.seed)
        if options.output is None:
            raise ValueError(f"name the file to write, as in: python -m models {options.name} out.onnx")
        Path(options.output).write_bytes(model.SerializeToString(deterministic=True))
    except (ValueError, OSError) as error:
        parser.exit(2, f"models: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m models", description="Write standard networks as ONNX files.")
    parser.add_argument("name", nargs="?", default="list", help="network to write, or 'list' (default)")
    parser.add_argument("output", nargs="?", help="ONNX file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, 0 or more (default 0)")
    return parser


def _summary(name: str) -> str:
    model = build(name)
    return f"{name:12} {_input_shape(model):12} {parameter_count(model):>11,} parameters  {NETWORKS[name].description}"


def _input_shape(model: ModelProto) -> str:
    _, *sizes = model.graph.input[0].type.tensor_type.shape.dim
    return "x".join(str(size.dim_value) for size in sizes)


if __name__ == "__main__":
    main(sys.argv[1:])
