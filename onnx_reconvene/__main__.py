"""python -m onnx_reconvene"""

import gc
import sys

from onnx_reconvene.cli import main as run


def main() -> int:
    """Run the command line; for so short a process the garbage collector would only look on."""
    gc.disable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
