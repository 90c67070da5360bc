"""python -m onnx_reconvene"""

import gc
import sys

from onnx_reconvene.supervision import supervised


def main() -> int:
    """Run the command line."""
    return supervised(_run)


def _run() -> int:
    from onnx_reconvene.cli import main as run

    gc.disable()  # for so short a process it would only look on
    return run()


if __name__ == "__main__":
    sys.exit(main())
