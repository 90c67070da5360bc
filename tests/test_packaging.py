"""Three ways to run what is in this checkout, each in a fresh environment: editable, and installed, from within and without."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import onnx
import pytest

import models

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SOURCE = ["onnx_reconvene", "passes", "pyproject.toml", "README.md", "LICENSE"]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
WHERE = """
import sys, onnx_reconvene as rc, onnx_reconvene.passes as passes, onnx_reconvene.cli, onnx_reconvene.api
print(rc.__file__, passes.__file__, sep="\\n")
"""
COPIES = """
import sys
try:
    import passes
except ImportError:
    pass
import onnx_reconvene.passes
try:
    import passes
except ImportError:
    pass
import onnx_reconvene.api, onnx_reconvene.passes.cut as cut
copies = {}
for name, module in sorted(sys.modules.items()):
    file = getattr(module, "__file__", None) or ""
    if "passes" in file and "onnx_ir" not in file and name != "__main__":
        copies.setdefault(file, []).append(name)
assert all(len(names) == 1 for names in copies.values()), copies
assert len(copies) >= 8, copies
from onnx_reconvene.passes import Cut
assert Cut is cut.Cut
"""


def call(*words: object, cwd: Path) -> str:
    """Run a program and return what it prints; it has to succeed."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("the build backend is not at hand")
    assert done.returncode == 0, done.stderr
    return done.stdout


def isolation() -> list[str]:
    """Return how to build: with the setuptools at hand if new enough, else in an environment of pip's own."""
    wanted = re.search(r"setuptools>=(\d+)", (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    try:
        found = int(metadata.version("setuptools").split(".")[0])
    except metadata.PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if found >= int(wanted[1]) else []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this checkout, so that nothing is built in the original, with a network in it."""
    root = tmp_path_factory.mktemp("checkout")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    call(*PIP, "wheel", "--no-deps", *isolation(), "--wheel-dir", folder, checkout, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that makes a fresh environment, which borrows the dependencies of this one, with something installed."""

    def make(*what: object) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
        python = folder / "bin" / "python"
        site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
        # A path file lends packages, but not what path files over there add: not our own editable install.
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        call(*PIP, "--python", python, "install", "--no-deps", "--ignore-installed", *isolation(), *what, cwd=folder)
        return python

    return make


@pytest.fixture(scope="module")
def editable(environment, checkout: Path) -> Path:
    """Return the interpreter of an environment with an editable install."""
    return environment("--editable", checkout)


@pytest.fixture(scope="module")
def installed(environment, wheel: Path) -> Path:
    """Return the interpreter of an environment with an ordinary install."""
    return environment(wheel)


@pytest.fixture
def way(request, checkout: Path, tmp_path: Path):
    """Return the interpreter, the folder to run in, and the folders that the package and its passes have to come from."""
    name = request.param
    python = request.getfixturevalue("editable" if name == "editable" else "installed")
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    return {
        "editable": (python, tmp_path, checkout / "onnx_reconvene", checkout / "passes"),
        "from the checkout": (python, checkout, checkout / "onnx_reconvene", site / "onnx_reconvene" / "passes"),
        "from elsewhere": (python, tmp_path, site / "onnx_reconvene", site / "onnx_reconvene" / "passes"),
    }[name]


WAYS = pytest.mark.parametrize("way", ["editable", "from the checkout", "from elsewhere"], indirect=True)


@WAYS
def test_modules_come_from_where_they_should(way):
    python, folder, package, passes = way
    found = [Path(line) for line in call(python, "-c", WHERE, cwd=folder).split()]
    assert found == [package / "__init__.py", passes / "__init__.py"]


@WAYS
def test_command_runs(way, tmp_path):
    python, folder, _, _ = way
    onnx.save(models.build("resnet20"), tmp_path / "in.onnx")
    call(python, "-m", "onnx_reconvene", tmp_path / "in.onnx", tmp_path / "module.onnx", cwd=folder)
    call(python.parent / "onnx-reconvene", tmp_path / "in.onnx", tmp_path / "script.onnx", cwd=folder)
    assert (tmp_path / "module.onnx").read_bytes() == (tmp_path / "script.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "module.onnx"), full_check=True)


@WAYS
def test_no_module_is_loaded_twice(way):
    python, folder, _, _ = way
    call(python, "-c", COPIES, cwd=folder)


def test_folder_of_passes_says_what_to_import(installed, checkout):
    done = subprocess.run([installed, "-c", "import passes"], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: import onnx_reconvene.passes")


def test_wheel_holds_every_module_and_nothing_else(wheel, checkout):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {p.relative_to(checkout).as_posix() for p in (checkout / "onnx_reconvene").rglob("*.py")}
    sources |= {f"onnx_reconvene/passes/{p.name}" for p in (checkout / "passes").glob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert "onnx_reconvene/py.typed" in names
    assert all(name.startswith(("onnx_reconvene/", "onnx_reconvene-")) for name in names)


def test_version_is_the_same_everywhere(installed, tmp_path):
    code = "from importlib.metadata import version; import onnx_reconvene as rc; print(version('onnx-reconvene'), rc.__version__)"
    stated, own = call(installed, "-c", code, cwd=tmp_path).split()
    assert stated == own
