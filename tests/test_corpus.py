"""Damaged files that once made the program fail, from `tools/fuzz_files.py`: a network or one line comes of each."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORPUS = sorted((ROOT / "tests" / "corpus").glob("*.onnx"))


def test_files_that_once_failed_do_no_more():
    assert CORPUS  # without files, the tool would damage others
    line = [sys.executable, str(ROOT / "tools" / "fuzz_files.py"), *map(str, CORPUS)]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
