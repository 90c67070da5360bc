"""The study of zoo.py over the nine networks that come with the onnx package, whose weights are made by nodes.

usage: python tools/bench/light.py

Writes light.json and light.md beside this script.
"""

from pathlib import Path

import onnx
from common import HERE
from zoo import study

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

if __name__ == "__main__":
    study(FOLDER.glob("*.onnx"), {"all": None}, HERE / "light.json", "Networks of the onnx package", "python tools/bench/light.py")
