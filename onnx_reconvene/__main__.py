"""python -m onnx_reconvene"""

import sys

from onnx_reconvene.cli import main

if __name__ == "__main__":
    sys.exit(main())
