"""The command line: wiring only."""

from __future__ import annotations

import io
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnx_reconvene.errors import DefectError, ModelError, ReconveneError, UsageError, described, one_line
from onnx_reconvene.kinds import FLAG
from onnx_reconvene.options import NAMES, READ, Options, flag, listed, refuse_idle
from onnx_reconvene.progress import cells_bar, passes_bar
from onnx_reconvene.supervision import Ended, ending

if TYPE_CHECKING:
    from onnx_reconvene.api import Result
    from onnx_reconvene.report import Report

Function = TypeVar("Function", bound=Callable[..., Any])
INPUT = click.argument("source", metavar="IN.onnx", type=click.Path())


def of_a_run(*names: str) -> Callable[[Function], Function]:
    """Return what adds these options of a run to a command, all if none is named; one that is not given has no value there."""

    def add(command: Function) -> Function:
        for of in reversed(fields(Options)):
            command = _as_option(of)(command) if of.name in (names or NAMES) else command
        return command

    return add


def _as_option(of: Field[Any]) -> Callable[[Function], Function]:
    kind, help, default = of.metadata["kind"], of.metadata["help"], of.metadata["shown"] or of.default
    if kind is FLAG:
        return click.option(flag(of.name), of.name, flag_value=not default, default=None, help=help)
    shown = str(default) if isinstance(default, str | int) else False
    return click.option(
        flag(of.name), of.name, multiple=kind.several, metavar=of.metadata["metavar"], help=help, show_default=shown
    )


def read_options(given: Mapping[str, Any]) -> Options:
    """Return the options of a run that are given on the command line. Raises UsageError where one cannot be read or makes no
    sense."""
    kinds = {of.name: of.metadata["kind"] for of in fields(Options)}
    texts = {name: given[name] for name in NAMES if given.get(name) not in (None, ())}
    options = Options(**{name: t if kinds[name] is FLAG else kinds[name].parse(flag(name), t) for name, t in texts.items()})
    options.check_values()
    return options


STREAM = "-"  # standard input or output in place of a file
OF_JOBS = ("input_shape", "input_value", "attention")  # options that a job for a device depends on
LOUD = click.option("-v", "--verbose", is_flag=True, help="Say more; add the traceback to an error.")


class Command(click.Command):
    """A command whose help is printed as all else."""

    def get_help(self, ctx: click.Context) -> str:
        """Print the help and end; click would call a pipe that nobody reads an error."""
        _print(super().get_help(ctx))
        ctx.exit()


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="IN.onnx", type=click.Path(), required=False)
@click.argument("output", metavar="OUT.onnx", type=click.Path(), required=False)
@of_a_run()
@click.option("--plan", "plan_file", metavar="FILE.json", type=click.Path(), help="Write which units stay.")
@click.option(
    "--latency-job", metavar="FILE.zip", type=click.Path(), help="Write what is to be measured on a device; prune nothing."
)
@click.option("--report", "report_file", metavar="FILE.json", type=click.Path(), help="Write a machine-readable report.")
@click.option("--html", "html_file", metavar="FILE.html", type=click.Path(), help="Write a page with plots.")
@click.option("--dry-run", is_flag=True, help="Do everything but write OUT.onnx, which may be left out.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@LOUD
def prune(
    source: str | None,
    output: str | None,
    report_file: str | None,
    plan_file: str | None,
    latency_job: str | None,
    html_file: str | None,
    dry_run: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Prune an ONNX network: whole low-sensitivity channels go, and every shape that depended on them follows.

    IN.onnx and OUT.onnx may be -, standard input and output. Other commands: inspect IN.onnx (what could be removed, what is frozen
    and why); compare A.onnx B.onnx (size, MACs, latency, equivalence); sweep IN.onnx OUTDIR (a portfolio of many cuts).
    """
    if given["criterion"] == "list":
        _list_criteria()
        return
    outputs = {"OUT.onnx": None if output == STREAM else output, "--report": report_file, "--plan": plan_file, "--html": html_file}
    if source is not None and latency_job is not None:
        _write_job(source, latency_job, outputs, given)
        return
    if source is None or (output is None and not dry_run):
        raise UsageError("give IN.onnx and OUT.onnx (or --dry-run); --help shows all options")
    from onnx_reconvene import api
    from onnx_reconvene.bridges import open_model
    from onnx_reconvene.files import check_spares, together

    _check_outputs(source, outputs, given)
    options = read_options(given)
    refuse_idle([options])
    if plan_file and options.granularity == "weight":
        raise UsageError("--plan: it says which channels stay; with --granularity weight all do")
    start = time.perf_counter()
    graph, back = open_model(_model(source))
    for path in filter(None, outputs.values()):
        check_spares(path, graph.source)
    out = None if dry_run or output is None else _standard_output() if output == STREAM else output
    with together():
        result = api.run(graph, back, options, out, start, watch=iter if quiet else passes_bar)
        _write(result, report_file, plan_file, html_file)
    if not quiet:
        _show(result.report, given["verbose"], apart=output == STREAM)


def _model(source: str) -> Any:
    """Return what to read a model from: standard input for a dash."""
    return sys.stdin.buffer if source == STREAM else source


def _standard_output() -> Any:
    """Return standard output to write a model to. Raises UsageError where that is a terminal."""
    if sys.stdout.isatty():
        raise UsageError("OUT.onnx -: standard output is a terminal; send it to a file or a program")
    return sys.stdout.buffer


def _check_outputs(source: str, outputs: dict[str, str | None], given: dict[str, Any]) -> None:
    """Raise UsageError where outputs, by option, stand in the way of each other or of what is read, or cannot be made."""
    from onnx_reconvene.files import check_apart

    check_apart(source, outputs, [given[option] for option in READ])
    if outputs["--html"] is not None:
        from onnx_reconvene.pages import check_plots

        check_plots("--html")


def _write(result: Result, report_file: str | None, plan_file: str | None, html_file: str | None) -> None:
    from onnx_reconvene import api
    from onnx_reconvene.plan import write_plan

    if report_file:
        api.write_report(result.report, report_file)
    if plan_file:
        write_plan(result.plan, plan_file)
    if html_file:
        api.write_page(result.report, html_file)


def _show(report: Report, verbose: bool, apart: bool) -> None:
    """Print what was done; apart: to standard error, where the model goes to standard output."""
    from onnx_reconvene.report import group_table, summary

    seconds = "seconds: " + ", ".join(f"{stage} {s:.3f}" for stage, s in report.seconds.items())
    for text in (summary(report), *((group_table(report), seconds) if verbose else ())):
        _print(text, apart)


def _write_job(source: str, path: str, outputs: dict[str, str | None], given: dict[str, Any]) -> None:
    from onnx_reconvene import api
    from onnx_reconvene.files import check_apart

    for option, output in outputs.items():
        if output is not None:
            raise UsageError(f"{option} {output}: not written with --latency-job, which prunes nothing; leave it out")
    check_apart(source, {"OUT.onnx": None, "--latency-job": path}, [])
    options = read_options(given)
    for name in NAMES:
        if options.sets(name) and name not in OF_JOBS:
            raise UsageError(f"{flag(name)}: nothing looks at it with --latency-job, which prunes nothing; leave it out")
    api.write_latency_job(_model(source), path, options.input_shape, options.attention, options.input_value)


@click.command(cls=Command)
@INPUT
@of_a_run("input_shape", "input_value")
@LOUD
def inspect(source: str, verbose: bool, **given: Any) -> None:
    """Show what could be removed from a network, what is frozen and why."""
    from onnx_reconvene import api
    from onnx_reconvene.inspection import inspection

    options = read_options(given)
    analysis = api.analyze(_model(source), options.input_shape, options.input_value)
    _print(inspection(analysis, everything=verbose).removesuffix("\n"))


@click.command(cls=Command)
@click.argument("before", metavar="A.onnx", type=click.Path())
@click.argument("after", metavar="B.onnx", type=click.Path())
@of_a_run("input_shape", "input_value", "threads")
@LOUD
def compare(before: str, after: str, verbose: bool, **given: Any) -> None:
    """Compare a network and its pruned form: size, MACs, latency, zeroed-consumer equivalence."""
    from onnx_reconvene import api
    from onnx_reconvene.report import sizes, verify_line

    if before == after == STREAM:
        raise UsageError("compare - -: standard input holds one network; name a file for the other")
    options = read_options(given)
    comparison = api.compare(_model(before), _model(after), options.input_shape, options.threads, options.input_value)
    verdict = [verify_line(comparison.verdict)] if comparison.verdict else []
    _print("\n".join([sizes(comparison.before, comparison.after), *comparison.remarks, *verdict]))


@click.command(cls=Command)
@INPUT
@click.argument("outdir", metavar="OUTDIR", type=click.Path())
@click.option(
    "--targets", multiple=True, default=["macs=0.5"], show_default=True, metavar="LIST", help="As --target; a+b: both hold."
)
@click.option(
    "--criteria", multiple=True, default=["auto"], show_default=True, metavar="LIST", help="As --criterion of a single run."
)
@click.option("--allocate", multiple=True, default=["auto"], show_default=True, metavar="LIST", help="As that of a single run.")
@click.option("--yardstick", default="l2", show_default=True, metavar="NAME", help="Criterion by which cuts are compared.")
@click.option("--no-latency", is_flag=True, help="Time no cut.")
@click.option("--no-plot", is_flag=True, help="Leave out portfolio.svg and portfolio.html.")
@click.option(
    "--jobs",
    default=0,
    metavar="N",
    type=click.IntRange(min=0),
    help="Cells at a time; as many as processors if left out, one where latency is a target.",
)
@click.option("--dask", metavar="ADDRESS", help="Cut on the workers of this Dask scheduler: tcp://host:8786.")
def sweep(
    source: str, outdir: str, targets: Sequence[str], criteria: Sequence[str], allocate: Sequence[str], quiet: bool, **given: Any
) -> int:
    """Cut a network by every target, criterion and allocator, and set the cuts side by side.

    Lists are separated by commas; their options may be repeated. OUTDIR gets the networks, their reports and portfolio.json, .md,
    .svg and .html. Run again after an interruption, it does what is missing. All further options are those of a single run.
    """
    from onnx_reconvene.portfolio import grid
    from onnx_reconvene.portfolio.row import remarks, table
    from onnx_reconvene.report import aligned

    rows = grid.sweep(
        _model(source),
        outdir,
        [target.split("+") if "+" in target else target for target in listed(targets)],
        listed(criteria),
        listed(allocate),
        read_options(given),
        yardstick=given["yardstick"],
        latency=not given["no_latency"],
        plot=not given["no_plot"],
        jobs=given["jobs"],
        dask=given["dask"],
        watch=grid.unwatched if quiet else cells_bar,
    )
    if all(row.status for row in rows):
        return _fail(f"no cell could be cut; {'; '.join(remarks(rows))}", rows[0].status, given["verbose"])
    if not quiet:
        lines = table(rows, given["yardstick"])
        _print("\n".join([aligned(lines, (0, len(lines[0]) - 1)), *remarks(rows)]))
    return 0


BY_CELL = {"target", "criterion", "allocate", "from_plan", "granularity"}  # if at all
ONE_RUN = BY_CELL | {"source", "output", "report_file", "plan_file", "html_file", "latency_job", "dry_run"}
sweep.params.extend(option for option in prune.params if option.name not in ONE_RUN)
COMMANDS = {"inspect": inspect, "compare": compare, "sweep": sweep}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        if "-q" in words or "--quiet" in words:
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda message, *_, **__: click.echo(f"onnx-reconvene: {message}", err=True)
        with ending():
            return _run(words)


def _run(words: list[str]) -> int:
    command = COMMANDS.get(words[0]) if words else None
    loud = "-v" in words or "--verbose" in words
    try:
        if command is not None:
            return command.main(words[1:], prog_name=f"onnx-reconvene {words[0]}", standalone_mode=False) or 0
        return prune.main(words, prog_name="onnx-reconvene", standalone_mode=False) or 0
    except click.ClickException as error:
        return _fail(error.format_message(), UsageError.exit_status, loud)
    except ReconveneError as error:
        return _fail(str(error), error.exit_status, loud)
    except (click.Abort, KeyboardInterrupt, Ended) as error:
        left = "run it again to go on" if command is sweep else "nothing was written"
        what, status = (str(error), 128 + error.number) if isinstance(error, Ended) else ("interrupted", 130)
        return _fail(f"{what}; {left}", status, False)
    except MemoryError:
        return _fail("out of memory", ModelError.exit_status, loud)
    except Exception as error:
        return _fail(f"internal error, please report it: {described(error)}", DefectError.exit_status, loud)


def _print(text: str, apart: bool = False) -> None:
    """Print a text, apart on standard error. That nobody reads it is no failure; raises UsageError for what else is wrong with
    standard output."""
    try:
        click.echo(text, err=apart)
    except OSError as error:
        sys.stdout = io.StringIO()  # else Python would try again in the end, and complain
        if not isinstance(error, BrokenPipeError):
            raise UsageError(f"standard output cannot be written: {error.strerror or error}") from error


def _fail(text: str, status: int, loud: bool) -> int:
    if loud:
        traceback.print_exc()
    click.echo(f"onnx-reconvene: {one_line(text)}", err=True)
    return status


def _list_criteria() -> None:
    from onnx_reconvene.saliency import criteria

    for criterion in criteria.values():
        _print(f"{criterion.name:15} {criterion.summary} [{criterion.source}]")
