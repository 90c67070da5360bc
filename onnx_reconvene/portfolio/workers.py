"""Where the cells of a sweep are cut: in this process, in a pool of processes, or on a Dask cluster; to the same bytes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

from onnx_reconvene import __version__
from onnx_reconvene.errors import ModelError, ReconveneError, UsageError
from onnx_reconvene.files import save, write_whole
from onnx_reconvene.graph import Source
from onnx_reconvene.portfolio.cell import Cell, Outcome, cut, cut_away
from onnx_reconvene.process import workplace
from onnx_reconvene.supervision import Ended, ending
from onnx_reconvene.threads import VARIABLES

Outcomes = Iterator[tuple[Cell, Outcome]]
INTERRUPTED = 130
ANSWERS_WITHIN = 10  # seconds, for a scheduler
MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows


def here(source: str, folder: Path, cells: Sequence[Cell]) -> Outcomes:
    """Cut one cell after the other in this process."""
    for cell in cells:
        yield cell, cut(source, cell, folder)


def in_pool(source: str, folder: Path, cells: Sequence[Cell], jobs: int) -> Outcomes:
    """Cut cells in `jobs` processes, which share the processors. Raises ModelError where one of them dies, KeyboardInterrupt where
    an interrupt ended it, which may be seen before that of this process is."""
    spawn = multiprocessing.get_context("spawn")  # a forked process would inherit locks that threads hold
    with ProcessPoolExecutor(jobs, spawn, _end_with_parent) as pool:
        with _environment(dict.fromkeys(VARIABLES, str(max(1, processors() // jobs)))):
            others = multiprocessing.active_children()
            with _interrupts_held():
                waiting = {pool.submit(_interruptible, source, cell, folder): cell for cell in cells}
            own = [process for process in multiprocessing.active_children() if process not in others]
        try:
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            pool.shutdown()  # which ends the others, too
            if any(process.exitcode in (INTERRUPTED, -signal.SIGINT) for process in own):
                raise KeyboardInterrupt from error
            hint = "perhaps out of memory: try fewer --jobs; run again, it goes on with what is missing"
            raise ModelError(f"a process that was cutting a cell died, {hint}") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in own if waiting else []:  # nobody waits for what they are doing
                _interrupt(process)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _interrupt(process: BaseProcess) -> None:
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


def _interruptible(source: str, cell: Cell, folder: Path) -> Outcome:
    """Cut cell; a signal that ends the process does so once it has tidied up after itself."""
    try:
        with ending():
            return cut(source, cell, folder)
    except (KeyboardInterrupt, Ended) as error:
        os._exit(128 + error.number if isinstance(error, Ended) else INTERRUPTED)


def _end_with_parent() -> None:
    """Let this process end with the one that started it, however that ends; that one warns, too."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold interrupts back, also from the processes that start meanwhile: as they import, one would show a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if MASKS else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile; those that the user has set stay."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def on_dask(address: str, bare: Source, folder: Path, cells: Sequence[Cell]) -> Outcomes:
    """Cut cells on the workers of the Dask scheduler at address. The network travels to each worker once, its cuts come back, so no
    disk need be shared; workers need this package, and what --data names.

    Raises UsageError where there is no Dask, scheduler or worker, ModelError where workers die of a cell.
    """
    try:
        import distributed
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise UsageError("--dask needs Dask: pip install 'onnx-reconvene[dask]'") from error
    with contextlib.ExitStack() as stack:
        try:
            get_address_host_port(address)
            client = stack.enter_context(distributed.Client(address, timeout=ANSWERS_WITHIN, set_as_default=False))
            client.wait_for_workers(1, timeout=ANSWERS_WITHIN)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(f"--dask {address}: no scheduler with a worker answers there") from error
        (files,) = client.scatter([_bundle(bare)], hash=False)
        waiting = {client.submit(cut_away, files, cell, __version__, pure=False): cell for cell in cells}
        try:
            for future, (outcome, written) in distributed.as_completed(waiting, loop=client.loop, with_results=True):
                cell = waiting.pop(future)
                for name, content in written.items():
                    write_whole(os.fspath(folder / name), content)
                yield cell, outcome
        except ReconveneError:
            raise
        except Exception as error:  # workers that die, schedulers that go, packages that are missing over there
            raise ModelError(
                f"--dask {address}: {error or type(error).__name__}; run again, it goes on with what is missing"
            ) from error


def _bundle(bare: Source) -> dict[str, bytes]:
    """Return the files of a model by name, itself first."""
    with workplace("sending the network to workers") as folder:
        save(bare, os.path.join(folder, "model.onnx"))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir(), key=lambda path: path.suffix != ".onnx")}
