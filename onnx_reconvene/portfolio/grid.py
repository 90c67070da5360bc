"""Sweep: every target by every criterion and allocator, cut, measured and set side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_reconvene.bridges import open_model
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.files import together, write_whole
from onnx_reconvene.graph import load, plain_source, without_weights
from onnx_reconvene.latency.measure import check_provider, latencies
from onnx_reconvene.latency.runtime import Runtime
from onnx_reconvene.options import AUTO, Common, Options, chosen_options, refuse_idle, with_options
from onnx_reconvene.portfolio.cell import Cell, Target, product
from onnx_reconvene.portfolio.dense import as_file, dense_of
from onnx_reconvene.portfolio.row import Row, with_fronts
from onnx_reconvene.portfolio.store import Store, files_in
from onnx_reconvene.portfolio.workers import Outcomes, here, in_pool, on_dask, processors
from onnx_reconvene.stage import stage_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

VERSION = 1
VARIED = {"target": "targets", "criterion": "criteria", "allocate": "allocate"}  # options that cells differ in
Watch = Callable[[Iterable[Any], int], Iterable[Any]]  # given what is to come and how much, may show progress


def unwatched(steps: Iterable[Any], count: int) -> Iterable[Any]:
    """Show no progress."""
    return steps


@with_options
def sweep(
    model: Any,
    outdir: str | os.PathLike[str],
    targets: Sequence[Target] = ("macs=0.5",),
    criteria: Sequence[str] = (AUTO,),
    allocate: Sequence[str] = (AUTO,),
    options: Options | None = None,
    *,
    yardstick: str = "l2",
    latency: bool = True,
    plot: bool = True,
    jobs: int = 0,
    dask: str | None = None,
    watch: Watch = unwatched,
    **keywords: Unpack[Common],
) -> list[Row]:
    """Cut a network by every target, criterion and allocator; write the cuts and a portfolio of them to the folder outdir.

    model, options and keywords: as for `prune`, the same for all cells; data and loss have to be named by text, as cells are cut in
    other processes. A target may be several that all hold. yardstick: the criterion whose scores kept make rows comparable.
    latency: whether each cut is timed, in turn with the network before it and once all are cut, as the options threads and provider
    say. plot: whether portfolio.svg and portfolio.html are drawn. jobs: how many cells at a time, 0 for as many as there are
    processors; 1 stays in this process, which alone knows criteria that it has registered itself. dask: the address of a scheduler
    whose workers cut instead. Returns a row for each cell.

    A cell whose report is there, of the same options, network and version, is not cut again. One that cannot be cut has a row that
    says why. Raises UsageError or ModelError where nothing can be.
    """
    if plot:
        from onnx_reconvene.pages import check_plots

        check_plots("sweep", "; or leave the plots out (--no-plot)")
    base = _base(chosen_options(options, keywords))
    if latency:
        check_provider(base.provider)
    graph, _ = open_model(model)
    cells = product(_stem(model), base, stage_of(plain_source(graph)), targets, criteria, allocate)
    refuse_idle([cell.options for cell in cells], timed=latency)
    store = Store(Path(outdir), dense_of(graph, yardstick, [cell.options for cell in cells]), files_in(base))
    failed = _cut_missing(store, cells, jobs, dask, watch)
    done = [cell for cell in cells if cell.name not in failed]
    untimed = _time(store, done, Runtime(base.threads, base.provider), watch) if latency else {}
    rows = with_fronts([failed.get(cell.name) or _row(store, cell, untimed) for cell in cells])
    _write(store, rows, plot)
    return rows


def _base(options: Options) -> Options:
    """Return what all cells have in common. Raises UsageError where that is something in which they differ."""
    for name, varied in VARIED.items():
        if options.sets(name):
            raise UsageError(f"sweep: {name} goes by cell; give {varied}=[...]")
    return options


def _cut_missing(store: Store, cells: Sequence[Cell], jobs: int, dask: str | None, watch: Watch) -> dict[str, Row]:
    """Cut the cells that the store does not have; return the rows of those that cannot be cut, by name."""
    missing = [cell for cell in cells if store.report(cell) is None]
    store.make()
    failed: dict[str, Row] = {}
    for cell, outcome in watch(_outcomes(store, missing, jobs, dask), len(missing)):
        if outcome.report is None:
            failed[cell.name] = Row.failed(cell, outcome.status, outcome.reason)
        else:
            store.enter(cell, outcome)
    return failed


def _stem(model: Any) -> str:
    return Path(model).stem if isinstance(model, str | os.PathLike) else "model"


def _outcomes(store: Store, cells: Sequence[Cell], jobs: int, dask: str | None) -> Outcomes:
    """Cut cells, each to its place in store; yield them as they are done."""
    for cell in cells:
        store.clear(cell)
    with as_file(store.dense) as source:
        alone = any(cell.measures for cell in cells)
        jobs = 1 if alone else min(jobs or processors(), len(cells))
        if dask is not None and cells:
            yield from on_dask(dask, store.dense.source, store.folder, cells)
        elif jobs > 1:
            yield from in_pool(source, store.folder, cells, jobs)
        else:
            yield from here(source, store.folder, cells)


def _time(store: Store, cells: Sequence[Cell], runtime: Runtime, watch: Watch) -> dict[str, str]:
    """Time the cuts that have not been, one after the other; return why some cannot be, by name."""
    waiting = [cell for cell in cells if not store.is_timed(cell, runtime.threads)]
    reasons = {}
    for cell in watch(waiting, len(waiting)):
        cut = without_weights(load(cell.network(store.folder)))
        try:
            before, after = latencies([store.dense.source, cut], store.dense.sizes, runtime.threads, runtime.provider)
        except ModelError as error:
            reasons[cell.name] = f"not timed: {error}"
        else:
            store.enter_times(cell, before, after, runtime.threads)
    return reasons


def _row(store: Store, cell: Cell, untimed: dict[str, str]) -> Row:
    report = store.report(cell)
    assert report is not None
    return Row.of(cell, report, untimed.get(cell.name))


def _write(store: Store, rows: Sequence[Row], plot: bool) -> None:
    """Write the portfolio: as JSON and Markdown and, if it is and can be drawn, as a plot and a page; else old ones go."""
    from onnx_reconvene.pages import portfolio

    dense = store.dense
    content = {"version": VERSION, "input": dense.path, "yardstick": dense.yardstick, "rows": [asdict(row) for row in rows]}
    written = {
        "portfolio.json": json.dumps(content, indent=1) + "\n",
        "portfolio.md": portfolio.markdown(rows, dense.yardstick),
    }
    if plot and any(row.after for row in rows):
        written["portfolio.svg"] = portfolio.plot(rows, dense.yardstick)
        written["portfolio.html"] = portfolio.page(rows, dense.yardstick, dense.path or "model", written["portfolio.svg"])
    for name in ("portfolio.svg", "portfolio.html"):
        if name not in written:
            (store.folder / name).unlink(missing_ok=True)
    with together():
        for name, text in written.items():
            write_whole(os.fspath(store.folder / name), text.encode())
