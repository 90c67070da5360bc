"""The sweep: cells equal to single runs wherever they are cut, what is done stays done, and rows that can be compared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_reconvene as rc
from onnx_reconvene.errors import ModelError, VerificationError
from onnx_reconvene.latency.runtime import CPU
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes import Verify
from onnx_reconvene.portfolio import grid
from onnx_reconvene.portfolio.cell import Cell
from onnx_reconvene.portfolio.row import Row, table, with_fronts
from onnx_reconvene.report import Size, score_kept
from onnx_reconvene.saliency import Context

PLAIN = ["--no-latency", "--no-plot", "--jobs", 1]
HERE = {"latency": False, "plot": False, "jobs": 1}
WORKERS = """
import multiprocessing, os, signal, time
from pathlib import Path
import numpy as np

def data():
    if multiprocessing.parent_process() is not None:  # the first process asks for a shape alone
        Path(os.environ["STARTED"]).touch()
        if os.environ["THEN"] == "die":
            os._exit(9)
        if os.environ["THEN"] == "be interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        if os.environ["THEN"] == "wait":
            time.sleep(60)
    yield {"input": np.zeros((2, 3, 32, 32), np.float32)}
"""


def contents(folder, pattern="*"):
    """Return the files of a folder by name, with when they were written."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob(pattern)}


def networks(folder):
    """Return the networks in a folder by name."""
    return {name: content for name, (_, content) in contents(folder, "*.onnx").items()}


SITE = """
import os, sys, time
from pathlib import Path

if "--multiprocessing-fork" in sys.orig_argv and os.environ["THEN"] == "start slowly":
    Path(os.environ["STARTED"]).touch()
    time.sleep(2)
"""


@pytest.fixture
def folder(tmp_path):
    """Return where a portfolio is to be."""
    return tmp_path / "portfolio"


# --- what is cut -----------------------------------------------------------------------------------------------------


def test_a_cell_is_what_a_single_run_with_its_options_makes(run, file, folder, tmp_path):
    shared = ["--round-to", 4, "--ignore", "conv1*", "--seed", 3, "--attention", "dims"]
    lists = [
        "--targets",
        "macs=0.6,params=50%+macs=1/2",
        "--targets",
        "size=200kB",
        "--criteria",
        "l1,random",
        "--allocate",
        "global",
    ]
    assert run("sweep", file(), folder, *lists, *shared, *PLAIN).status == 0
    targets = {"macs-0.6": ["macs=0.6"], "params-50pct+macs-1_2": ["params=50%", "macs=1/2"], "size-200kB": ["size=200kB"]}
    for name, target in targets.items():
        for criterion in ("l1", "random"):
            asked = [word for text in target for word in ("--target", text)]
            alone = tmp_path / "alone.onnx"
            assert run(file(), alone, *asked, "--criterion", criterion, "--allocate", "global", *shared).status == 0
            assert (folder / f"in.{name}.{criterion}.global.onnx").read_bytes() == alone.read_bytes()
    assert len(networks(folder)) == 6


def test_every_option_of_a_run_that_is_not_of_one_file_is_one_of_a_sweep(run):
    words = {word for word in run("--help").out.split() if word.startswith("--")}
    of_one = {
        "--target",
        "--criterion",
        "--report",
        "--html",
        "--plan",
        "--from-plan",
        "--granularity",
        "--dry-run",
        "--latency-job",
    }
    assert words - of_one <= set(run("sweep", "--help").out.split())


def test_other_models_than_files(network, folder):
    (row,) = rc.sweep(network("resnet20"), folder, **HERE)
    assert row.file == "model.macs-0.5.synflow.reconvene.onnx"  # as for any untrained network
    rc.prune(network("resnet20")).save(folder / "alone.onnx")
    assert (folder / row.file).read_bytes() == (folder / "alone.onnx").read_bytes()
    assert json.loads((folder / row.report).read_text())["input"] is None


def test_a_report_lies_beside_each_network(file, folder):
    source = file()
    (row,) = rc.sweep(source, folder, **HERE)
    report = json.loads((folder / row.report).read_text())
    assert (report["input"], report["output"]) == (str(source), str(folder / row.file))
    alone = rc.prune(source).report.json()
    different = {"sweep", "seconds", "output"}
    assert {k: v for k, v in report.items() if k not in different} == json.loads(
        json.dumps({k: v for k, v in alone.items() if k not in different})
    )


def test_the_portfolio_lists_every_cell(run, file, folder):
    ran = run("sweep", file(), folder, "--targets", "macs=0.5,macs=1e-9", "--criteria", "l2,l1", *PLAIN)
    assert ran.status == 0
    found = json.loads((folder / "portfolio.json").read_text())
    assert [(row["target"], row["criterion"], row["status"]) for row in found["rows"]] == [
        ("macs=0.5", "l2", 0),
        ("macs=0.5", "l1", 0),
        ("macs=1e-9", "l2", 4),
        ("macs=1e-9", "l1", 4),
    ]
    for text in (ran.out, (folder / "portfolio.md").read_text()):
        assert all(text.count(row["name"]) for row in found["rows"])
        assert text.count("is the best reachable") == 2


# --- where it is cut -------------------------------------------------------------------------------------------------

MANY = {"targets": ["macs=0.5", "params=0.3"], "criteria": ["l2", "synflow"], "latency": False, "plot": False}


@pytest.mark.slow
def test_a_pool_makes_the_same_networks(file, folder, tmp_path):
    alone = rc.sweep(file(), folder, jobs=1, **MANY)
    assert rc.sweep(file(), tmp_path / "pool", jobs=2, **MANY) == alone
    assert networks(tmp_path / "pool") == networks(folder)


@pytest.mark.slow
def test_dask_makes_the_same_networks(file, folder, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    alone = rc.sweep(file(), folder, jobs=1, **MANY)
    monkeypatch.chdir(tmp_path)  # workers write where they start
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        rows = rc.sweep(file(), tmp_path / "dask", dask=cluster.scheduler_address, **MANY)
        with distributed.Client(cluster) as client:
            assert len(client.run(lambda dask_worker: dask_worker.state.executed_count)) == 2
    assert rows == alone
    assert networks(tmp_path / "dask") == networks(folder)


def test_no_dask(run, file, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    ran = run("sweep", file(), folder, "--dask", "tcp://127.0.0.1:8786", *PLAIN)
    assert ran.status == 2
    assert "pip install 'onnx-reconvene[dask]'" in ran.err


def test_no_scheduler(run, file, folder, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("onnx_reconvene.portfolio.workers.ANSWERS_WITHIN", 1)
    for address in ("nowhere", "tcp://127.0.0.1:9"):
        ran = run("sweep", file(), folder, "--dask", address, *PLAIN)
        assert ran.status == 2
        assert f"--dask {address}: no scheduler" in ran.err


# --- what is done stays done -----------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(file, folder):
    lists = {"targets": ["macs=0.5", "macs=0.7"], "criteria": ["l2", "l1"]}
    first = rc.sweep(file(), folder, **lists, **HERE)
    before = contents(folder, "in.*")
    (folder / "in.macs-0.7.l1.reconvene.onnx").unlink()
    (folder / "in.macs-0.5.l1.reconvene.json").write_text('{"version": 1, "inp')
    assert rc.sweep(file(), folder, **lists, **HERE) == first
    after = contents(folder, "in.*")
    assert {name: content for name, (_, content) in after.items() if name.endswith(".onnx")} == {
        name: content for name, (_, content) in before.items() if name.endswith(".onnx")
    }
    assert {name for name in before if before[name] != after[name]} == {
        f"in.{cell}.{kind}" for cell in ("macs-0.7.l1.reconvene", "macs-0.5.l1.reconvene") for kind in ("onnx", "json")
    }


def test_other_options_networks_data_and_versions_are_done_again(file, network, folder, tmp_path, monkeypatch):
    source, data = file(), tmp_path / "data.npz"
    np.savez(data, input=np.zeros((2, 3, 32, 32), np.float32))
    told = {"criteria": ["activation-mean"], "data": str(data), "verify": False}
    name = "in.macs-0.5.activation-mean.reconvene.onnx"

    def written(**more):
        rc.sweep(source, folder, **told, **more, **HERE)
        return contents(folder)[name][0]

    first = written()
    assert written() == first
    assert (second := written(round_to=1)) > first
    np.savez(data, input=np.ones((2, 3, 32, 32), np.float32))
    assert (third := written(round_to=1)) > second
    monkeypatch.setattr("onnx_reconvene.portfolio.store.__version__", "0.0.0")
    assert (fourth := written(round_to=1)) > third
    model = network("resnet20")
    model.producer_name = "someone else"
    source = file(model)
    assert written(round_to=1) > fourth


@pytest.mark.parametrize("kind", ["folder", "function"])
def test_other_samples_behind_the_same_name_are_done_again(file, folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)

    def put(value):
        if kind == "function":
            array = f"np.full((2, 3, 32, 32), {value / 255}, np.float32)"
            Path("samples_of_mine.py").write_text(f"import numpy as np\ndef data():\n    yield {{'input': {array}}}\n")
        else:
            image = pytest.importorskip("PIL.Image")
            Path("images", "below").mkdir(parents=True, exist_ok=True)
            for k in range(2):
                image.fromarray(np.full((32, 32, 3), value + k, np.uint8)).save(Path("images", "below", f"{k}.png"))

    def written():
        data = "images" if kind == "folder" else "samples_of_mine:data"
        rc.sweep(source, folder, criteria=["activation-mean"], data=data, samples=2, verify=False, **HERE)
        return contents(folder)["in.macs-0.5.activation-mean.reconvene.onnx"][0]

    source = file()
    put(1)
    first = written()
    if kind == "folder":
        Path("images", "below", "2.png").write_bytes(b"beyond the samples")
    assert written() == first
    put(200)
    assert written() > first


@pytest.mark.parametrize("target", ["latency=0.5", "Latency = 8ms"])
def test_what_times_the_network_is_cut_alone(target):
    assert Cell("x", rc.Options(target=("macs=0.5", target), allocate="uniform")).measures
    assert Cell("x", rc.Options(target=("macs=0.5",), allocate="latency")).measures
    assert not Cell("x", rc.Options(target=("macs=0.5",), allocate="uniform")).measures


@pytest.fixture
def start(file, folder, tmp_path):
    """Return a function that starts a sweep in a process group of its own, over data that do what they are told."""
    (tmp_path / "workers.py").write_text(WORKERS)
    (tmp_path / "sitecustomize.py").write_text(SITE)  # which Python imports as it starts
    words = ["--criteria", "activation-mean", "--data", "workers:data", "--targets", "macs=0.5,macs=0.7", *PLAIN, "--jobs", 2]
    line = [sys.executable, "-m", "onnx_reconvene", "sweep", file(), folder, *words]
    root = str(Path(rc.__file__).parents[1])

    def run(then):
        path = os.pathsep.join([str(tmp_path), root, os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"STARTED": str(tmp_path / "started"), "THEN": then, "PYTHONPATH": path}
        return subprocess.Popen(
            [str(word) for word in line], env=environment, start_new_session=True, text=True, stderr=subprocess.PIPE, cwd=tmp_path
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "then"), [("all", "start slowly"), ("the first", "wait")])
def test_an_interrupted_sweep_goes_on_where_it_was(start, folder, tmp_path, whom, then):
    process = start(then)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.1)
    (os.killpg if whom == "all" else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)  # which waits until nobody is left that could write there
    assert process.returncode == 130
    assert err.strip() == "onnx-reconvene: interrupted; run it again to go on"
    assert not list(folder.glob("*.part"))
    again = start("go on")
    assert again.communicate(timeout=60)[1] == ""
    assert again.returncode == 0
    assert len(networks(folder)) == 2


@pytest.mark.slow
def test_a_process_that_dies_is_told_in_a_line(start):
    process = start("die")
    (line,) = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 3
    assert "died" in line
    assert "internal error" not in line


@pytest.mark.slow
def test_an_interrupt_that_a_process_sees_first_is_one(start):
    process = start("be interrupted")
    assert process.communicate(timeout=60)[1].strip() == "onnx-reconvene: interrupted; run it again to go on"
    assert process.returncode == 130


def test_what_cannot_be_cut_again_leaves_nothing_of_other_options(file, folder):
    rc.sweep(file(), folder, **HERE)
    (folder / "in.macs-0.5.synflow.reconvene.onnx.01234567.part").write_text("half")
    (row,) = rc.sweep(file(), folder, min_width=60, **HERE)
    assert row.status == 4
    assert not contents(folder, "in.*")


def test_weights_beside_a_cut_go_with_it(file, folder, monkeypatch):
    monkeypatch.setattr("onnx_reconvene.files.PROTOBUF_LIMIT", 2**20 + 100_000)
    rc.sweep(file(), folder, **HERE)
    assert len(contents(folder, "in.*.data")) == 1
    rc.sweep(file(), folder, min_width=60, **HERE)
    assert not contents(folder, "in.*")


# --- what cannot be cut ----------------------------------------------------------------------------------------------


def test_a_failing_cell_stops_no_other(file, folder, monkeypatch):
    whole = Verify.call

    def call(self, graph):
        if notes_of(graph).criterion == "l1":
            raise VerificationError("output 'y' is off")
        return whole(self, graph)

    monkeypatch.setattr(Verify, "call", call)
    rows = rc.sweep(file(), folder, criteria=["l1", "l2"], **HERE)
    assert [(row.status, row.reason) for row in rows] == [(5, "output 'y' is off"), (0, None)]
    assert list(networks(folder)) == [rows[1].file]


def test_where_no_cell_can_be_cut_the_status_is_that_of_the_first(run, file, folder):
    ran = run("sweep", file(), folder, "--targets", "macs=1e-9,params=1e-9", *PLAIN)
    assert (ran.status, ran.out) == (4, "")
    (line,) = ran.err.splitlines()
    assert line.count("is the best reachable") == 2


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (["--criteria", "l2,nope"], "--criterion nope"),
        (["--allocate", "nope"], "--allocate nope"),
        (["--yardstick", "nope"], "--yardstick nope: not one of"),
        (["--yardstick", "fisher"], "--yardstick fisher needs data"),
        (["--targets", "macs=0.5,macs=x"], "--target macs=x"),
        (["--targets", ""], "--targets"),
        (["--criteria", "l2,"], "--criteria"),
        (["--criteria", "fisher"], "--criterion fisher needs data"),
        (["--round-to", "x"], "--round-to x"),
        (["--target", "macs=0.5"], "--target"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(run, file, folder, words, mention):
    ran = run("sweep", file(), folder, *words, *PLAIN)
    assert (ran.status, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    assert mention in line
    assert not folder.exists()


def test_folders_that_cannot_be(run, file):
    source = file()
    for folder in (source, source / "below"):
        ran = run("sweep", source, folder, *PLAIN)
        assert ran.status == 2
        assert str(folder) in ran.err


def test_data_that_cannot_travel(file, folder):
    data = {"input": np.zeros((2, 3, 32, 32), np.float32)}
    with pytest.raises(rc.UsageError, match=r"give targets=\["):
        rc.sweep(file(), folder, target="macs=0.9", **HERE)
    with pytest.raises(rc.UsageError, match="named by text"):
        rc.sweep(file(), folder, criteria=["taylor"], data=data, **HERE)
    with pytest.raises(rc.UsageError, match="--from-plan"):
        rc.sweep(file(), folder, from_plan="plan.json", **HERE)
    assert not folder.exists()


def test_plots_that_cannot_be_drawn(run, file, folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = run("sweep", file(), folder, "--no-latency")
    assert (ran.status, ran.out) == (2, "")
    assert "pip install 'onnx-reconvene[plot]'" in ran.err
    assert "--no-plot" in ran.err
    assert not folder.exists()


def test_quiet(run, file, folder):
    ran = run("sweep", file(), folder, *PLAIN, "-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Let a run of the network take 10 ms, and of the k-th cut 10 - k; return how many were timed."""
    timed = []

    def latencies(models, sizes, threads, provider):
        before, after = (sum(array.nbytes for array in model.arrays.values()) for model in models)
        assert before > after
        timed.append((threads, provider))
        return [10.0, 10.0 - len(timed)]

    monkeypatch.setattr(grid, "latencies", latencies)
    return timed


def test_each_cut_is_timed_once_against_the_network(file, folder, clock):
    told = {"targets": ["macs=0.5", "macs=0.7"], "jobs": 1, "plot": False}
    rows = rc.sweep(file(), folder, **told)
    assert [row.kept("latency_ms") for row in rows] == [0.9, 0.8]
    assert rc.sweep(file(), folder, **told) == rows
    assert clock == [(0, CPU)] * 2
    rc.sweep(file(), folder, threads=2, **told)
    assert clock == [(0, CPU)] * 2 + [(2, CPU)] * 2
    report = json.loads((folder / rows[0].report).read_text())
    assert (report["before"]["latency_ms"], report["after"]["latency_ms"]) == (10.0, 7.0)


@pytest.mark.parametrize("given", [{"threads": 3}, {"options": rc.Options(threads=3)}])
def test_cells_get_the_threads_that_cuts_are_timed_with(file, folder, clock, given):
    (row,) = rc.sweep(file(), folder, jobs=1, plot=False, **given)
    assert json.loads((folder / row.report).read_text())["sweep"]["key"]["options"]["threads"] == 3
    assert clock == [(3, CPU)]


def test_cuts_are_timed_with_the_provider_given(file, folder, clock, monkeypatch):
    monkeypatch.setattr(grid, "check_provider", lambda provider: None)
    rc.sweep(file(), folder, provider="OtherExecutionProvider", jobs=1, plot=False)
    assert clock == [(0, "OtherExecutionProvider")]


def test_a_provider_that_onnxruntime_lacks_is_refused_before_anything_is_cut(run, file, folder):
    ran = run("sweep", file(), folder, "--provider", "NoSuchExecutionProvider", "--no-plot")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("onnx-reconvene: --provider NoSuchExecutionProvider: ")
    assert not folder.exists()


def test_a_cut_that_cannot_be_timed_says_so(file, folder, monkeypatch):
    def latencies(models, sizes, threads, provider):
        raise ModelError("no such operator")

    monkeypatch.setattr(grid, "latencies", latencies)
    (row,) = rc.sweep(file(), folder, jobs=1, plot=False)
    assert (row.status, row.reason, row.kept("latency_ms")) == (0, "not timed: no such operator", None)
    assert row.kept("macs") <= 0.5


@pytest.mark.parametrize("steps", [1, 2])
def test_scores_kept_are_those_of_the_units_that_stay(file, folder, steps):
    source = file()
    analysis = rc.analyze(source)
    options = {"criterion": "l1", "allocate": "uniform", "target": "macs=0.4", "steps": steps}
    result = rc.prune(source, **options)
    keep = result.plan.masks(analysis)
    (row,) = rc.sweep(source, folder, ["macs=0.4"], ["l1"], ["uniform"], yardstick="fpgm", steps=steps, **HERE)
    for criterion, found in (("l1", result.report.score_kept), ("fpgm", row.yardstick_kept)):
        scores = rc.criteria[criterion].score(analysis, Context())
        assert found == pytest.approx(sum(scores[keep]) / sum(scores))


def test_scores_below_zero_weigh_nothing():
    keep = np.array([True, False, True, False])
    assert score_kept(np.array([3.0, 1.0, -5.0, -1.0]), keep) == 0.75
    assert score_kept(np.array([0.0, -1.0, 0.0, 0.0]), keep) is None


def test_nothing_removed_keeps_all(file, folder):
    (row,) = rc.sweep(file(), folder, ["channels=1"], **HERE)
    assert (row.score_kept, row.yardstick_kept, row.kept("macs"), row.pareto) == (1, 1, 1, ("macs", "params"))


def row(name, macs, params, latency, kept):
    """Return a row of a network of 100 MACs, 100 parameters and 100 ms."""
    return Row(name, "", "", "", 0, None, "", "", Size(100, 100, 0, 0, 100.0), Size(params, macs, 0, 0, latency), kept, kept)


def test_pareto_fronts():
    rows = [
        row("best for its MACs", 50, 60, 70.0, 0.8),
        row("as many MACs, keeps less", 50, 60, 60.0, 0.7),
        row("keeps least but is smallest", 40, 30, 80.0, 0.5),
        row("keeps most", 90, 90, 90.0, 0.9),
        row("the same again", 90, 90, None, 0.9),
        Row.failed(grid.Cell("failed", rc.Options(target=("macs=0.1",))), 4, "no"),
    ]
    assert [row.pareto for row in with_fronts(rows)] == [
        ("macs", "params", "latency_ms"),
        ("latency_ms",),
        ("macs", "params"),
        ("macs", "params", "latency_ms"),
        ("macs", "params"),
        (),
    ]


def test_amounts_are_readable():
    (_, line) = table([row("a", 2_500_000, 999, 1.5, 0.5)], "l2")
    assert line[1:4] == ("2.5 M (2500000.0%)", "999 (999.0%)", "1.50 ms (1.5%)")


def test_the_networks_are_valid(file, folder):
    (found,) = rc.sweep(file(), folder, **HERE)
    onnx.checker.check_model(str(folder / found.file), full_check=True)


def test_a_criterion_that_does_something_else_under_its_name_is_cut_again(file, folder):
    def later(analysis, context):
        return np.arange(analysis.width) + 1.0

    def earlier(analysis, context):
        return analysis.width - np.arange(analysis.width) + 1.0

    def cut(function):
        rc.criterion("own", "a test")(function)
        (row,) = rc.sweep(file("resnet20"), folder, ["channels=0.5"], ["own"], jobs=1, latency=False, plot=False, verify=False)
        path = folder / f"{row.name}.onnx"
        return path.stat().st_mtime_ns, path.read_bytes()

    first, again, other = cut(later), cut(later), cut(earlier)
    assert first == again
    assert first[1] != other[1]
