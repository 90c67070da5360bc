"""Options: all that `prune` can be told, stated once for the command line, Python and Olive, and checked once for all three."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from onnx_reconvene.errors import UsageError
from onnx_reconvene.kinds import (
    ANYTHING,
    FILE,
    FLAG,
    FRACTIONS,
    NUMBERS,
    PLAN,
    ROUNDING,
    SETTINGS,
    SHAPES,
    TEXT,
    TEXTS,
    Kind,
    at_least,
    one_of,
    shortened,
    texts,
)

if TYPE_CHECKING:
    from onnx_reconvene.plan import Plan
    from onnx_reconvene.stage import Stage

AUTO = "auto"
CPU = "CPUExecutionProvider"
DEFAULTS = {"initialized": ("synflow", "reconvene"), "trained": ("l1", "uniform")}  # criterion, allocator: tools/bench/pairs.md
PLANNED = ("allocate", "attention", "rectify", "seed")  # options that a plan replays where nothing else is asked for
PATTERNS, WIDTHS = ("ignore", "only", "keep", "keep_file"), ("allocate", "steps", "round_to", "min_width")
CHOOSING = ("target", "criterion", "aggregate", *WIDTHS, *PATTERNS)  # which channels go, as a plan says
OF_CHANNELS = ("from_plan", *WIDTHS, *PATTERNS, "rectify", "repair")
READ = ("data", "loss", "keep_file", "from_plan", "latency_table")  # options that may name files
MOST_STEPS = 1000  # each scores the whole network
LATENCY = "latency"  # the target and the allocator that need a clock
File = str | os.PathLike[str]
Function = TypeVar("Function", bound=Callable[..., Any])


def option(kind: Kind, help: str, metavar: str = "NAME", shown: str | None = None) -> dict[str, Any]:
    """Return what a field of `Options` says of itself; shown: its default as the help shows it, if not as it is."""
    return {"kind": kind, "help": help, "metavar": metavar, "shown": shown}


@dataclass(frozen=True, repr=False)
class Options:
    """What `prune` can be told; the options of the command line have the same names."""

    target: str | Sequence[str] = field(  # macs=0.5, if no file says what is kept
        default=(),
        metadata=option(
            TEXTS,
            "What is kept: KIND is channels, params, macs, size, memory or latency; VALUE 0.5, 50%, 1/16, 2.5M, 2MB or 8ms. "
            "Repeatable; all hold. macs=0.5 if left out.",
            "KIND=VALUE",
        ),
    )
    criterion: str = field(
        default=AUTO,
        metadata=option(TEXT, "Saliency; 'list' prints all. Left out: synflow for an untrained network, l1 for a trained one."),
    )
    aggregate: str = field(default="sum", metadata=option(TEXT, "How a unit's sites count: sum, mean, max or normalized."))
    data: Any = field(
        default=None,
        metadata=option(ANYTHING, "Samples, for criteria and repairs: .npz, .npy, images or package.module:function.", "SOURCE"),
    )
    samples: int = field(default=128, metadata=option(at_least(1), "How many of the samples are used.", "N"))
    batch_size: int = field(default=0, metadata=option(at_least(0), "Samples at a time.", "N", "automatic"))
    image: Mapping[str, str] = field(
        default_factory=dict, metadata=option(SETTINGS, "How images are prepared: resize, crop, mean, std, order.", "KEY=VALUE")
    )
    loss: Any = field(
        default=None, metadata=option(ANYTHING, "cross-entropy, squared-norm, an ONNX model, or a scalar tensor of the network.")
    )
    gradients: str = field(default="ort", metadata=option(TEXT, "Who computes gradients.", "ort|torch"))
    allocate: str = field(
        default=AUTO,
        metadata=option(
            TEXT, "How the budget is spread over groups. Left out: reconvene for an untrained network, uniform for a trained one."
        ),
    )
    round_to: int = field(default=0, metadata=option(ROUNDING, "Widths are multiples of N where a group allows.", "N", "auto"))
    min_width: int = field(default=1, metadata=option(at_least(1), "No group is left with fewer units.", "N"))
    ignore: str | Sequence[str] = field(
        default=(), metadata=option(TEXTS, "Nodes or weights whose output channels stay (shell pattern).", "PATTERN")
    )
    only: str | Sequence[str] = field(
        default=(), metadata=option(TEXTS, "Nodes or weights whose output channels alone may go.", "PATTERN")
    )
    keep: Mapping[str, float] = field(
        default_factory=dict, metadata=option(FRACTIONS, "Keep this fraction of these channels.", "PATTERN=FRACTION")
    )
    keep_file: File | None = field(
        default=None, metadata=option(FILE, "More of these, a table in TOML or JSON, or a plan.", "FILE")
    )
    steps: int = field(
        default=1, metadata=option(at_least(1, MOST_STEPS), "Go to the targets in N steps, scoring again at each.", "N")
    )
    granularity: str = field(
        default="channel",
        metadata=option(one_of("channel", "weight"), "Remove channels, or set single weights to zero.", "channel|weight"),
    )
    from_plan: File | Plan | None = field(default=None, metadata=option(PLAN, "Keep the units that a plan keeps.", "FILE.json"))
    attention: str = field(
        default="heads", metadata=option(one_of("heads", "dims"), "Attention loses heads, or width of each.", "heads|dims")
    )
    rectify: str = field(
        default=AUTO,
        metadata=option(
            TEXT,
            "Weights of layers that were cut: none (keep), rescale, reinit (re-initialize), auto (reinit if evidently untrained).",
            "MODE",
        ),
    )
    repair: str = field(
        default="none",
        metadata=option(
            TEXT,
            "Trained networks, with --data: bn (statistics and biases) or lstsq (weights of layers that lost inputs, too).",
            "MODE",
        ),
    )
    input_shape: Mapping[str, Sequence[int]] = field(
        default_factory=dict, metadata=option(SHAPES, "Size of an input with free dimensions.", "NAME=1,3,224,224")
    )
    input_value: Mapping[str, float] = field(
        default_factory=dict, metadata=option(NUMBERS, "Value of an input of one number, such as a sample rate.", "NAME=16000")
    )
    threads: int = field(default=0, metadata=option(at_least(0), "Of onnxruntime where latency is measured; 0: its choice.", "N"))
    provider: str = field(default=CPU, metadata=option(TEXT, "Of onnxruntime, for latency."))
    latency_table: File | None = field(
        default=None, metadata=option(FILE, "Latency as measured on a device, not on this machine.", "FILE.json")
    )
    allow_uncounted: bool = field(default=False, metadata=option(FLAG, "Let targets leave out layers whose cost is not known."))
    verify: bool = field(default=True, metadata=option(FLAG, "Leave out the equivalence check."))
    seed: int = field(default=0, metadata=option(at_least(0), "Of all that is random.", "N"))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{name}={shortened(getattr(self, name))}' for name in NAMES if self.sets(name))})"

    @property
    def targets(self) -> tuple[str, ...]:
        """What is kept, in full."""
        return texts(self.target) or ("channels=1" if self.keep_file else "macs=0.5",)

    def for_stage(self, stage: Stage) -> Options:
        """Return these options with what was left open chosen for a network of this stage."""
        criterion, allocate = DEFAULTS[stage.name]
        return replace(
            self,
            criterion=criterion if self.criterion == AUTO else self.criterion,
            allocate=allocate if self.allocate == AUTO else self.allocate,
        )

    def of_plan(self) -> Options:
        """Return these options with what their plan, if any, was made with."""
        from onnx_reconvene.plan import plan_of

        if self.from_plan is None:
            return self
        plan = plan_of(self.from_plan)
        replayed = [key for key in PLANNED if key in plan.settings and not self.sets(key)]
        return replace(self, from_plan=plan, **{key: plan.settings[key] for key in replayed})

    def sets(self, name: str) -> bool:
        """Return True if an option differs from its default."""
        value, default = getattr(self, name), getattr(PLAIN, name)
        return value is not None if default is None else (value or default) != default

    def check(self) -> None:
        """Raise UsageError where options make no sense, do not go together, or nothing in a run looks at one."""
        self.check_values()
        refuse_idle([self])

    def check_values(self) -> None:
        """Raise UsageError where options make no sense, or do not go together."""
        for of in fields(self):
            of.metadata["kind"].check(flag(of.name), getattr(self, of.name), optional=of.default is None)
        for asked, others in ((self.granularity == "weight", OF_CHANNELS), (self.from_plan is not None, CHOOSING)):
            idle = [flag(name) for name in others if asked and self.sets(name)]
            if idle:
                option = "--granularity weight" if others is OF_CHANNELS else "--from-plan"
                raise UsageError(f"{option}: goes without {', '.join(idle)}")


class Common(TypedDict, total=False):
    """The fields of `Options` that all cuts of a sweep have in common, as keywords for editors and type checkers."""

    aggregate: str
    data: Any
    samples: int
    batch_size: int
    image: Mapping[str, str]
    loss: Any
    gradients: str
    round_to: int | Literal["auto"]
    min_width: int
    ignore: str | Sequence[str]
    only: str | Sequence[str]
    keep: Mapping[str, float]
    keep_file: File | None
    steps: int
    attention: str
    rectify: str
    repair: str
    input_shape: Mapping[str, Sequence[int]]
    input_value: Mapping[str, float]
    threads: int
    provider: str
    latency_table: File | None
    allow_uncounted: bool
    verify: bool
    seed: int


class Keywords(Common, total=False):
    """The fields of `Options` as keywords for editors and type checkers."""

    target: str | Sequence[str]
    criterion: str
    allocate: str
    granularity: str
    from_plan: File | Plan | None


PLAIN = Options()
NAMES = tuple(of.name for of in fields(Options))


def flag(name: str) -> str:
    """Return the option of the command line that sets a field of `Options`."""
    return ("--no-" if getattr(PLAIN, name) is True else "--") + name.replace("_", "-")


def with_options(function: Function) -> Function:
    """Show the fields of `Options` in the signature of a function that takes them as keywords."""
    signature = inspect.signature(function)
    explicit = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(of.name, keyword, default=getattr(PLAIN, of.name), annotation=of.type)
        for of in fields(Options)
        if of.name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=[*explicit, *added])  # type: ignore[attr-defined]
    return function


def chosen_options(options: Options | None, keywords: Mapping[str, Any]) -> Options:
    """Return options, the defaults where there are none, with keywords put in their place. Raises UsageError where one of these
    is unknown, with the one that is nearest to it."""
    for name in keywords.keys() - set(NAMES):
        near = get_close_matches(name, NAMES, 1) or get_close_matches(name.lower().replace("-", "_"), NAMES, 1)
        raise UsageError(f"no such option: '{name}'" + (f"; did you mean '{near[0]}'?" if near else f" ({', '.join(NAMES)})"))
    automatic = {"round_to": 0} if keywords.get("round_to") == AUTO else {}
    return replace(options or PLAIN, **{**keywords, **automatic})


def refuse_idle(runs: Sequence[Options], timed: bool = False) -> None:
    """Raise UsageError for an option that nothing in any of these runs looks at; timed: whether latency is measured after them."""
    for name in NAMES:
        reasons = [_idle(run, timed).get(name) for run in runs]
        if any(run.sets(name) for run in runs) and all(reasons):
            raise UsageError(f"{flag(name)}: {reasons[0]}")


def _idle(run: Options, timed: bool) -> dict[str, str]:
    """Return the options that nothing in a run looks at, whether set or not, each with what it lacks."""
    from onnx_reconvene.saliency import criteria
    from onnx_reconvene.target import parse_targets

    criterion = criteria.get(run.criterion)
    scores_data = run.criterion != AUTO and (criterion is None or criterion.needs_data)
    clocked = run.allocate == LATENCY or any(target.kind == LATENCY for target in parse_targets(run.targets))
    no_data = "nothing here looks at data; choose a criterion that does (--criterion list) or a --repair"
    no_loss = "nothing here looks at a loss; choose a criterion that does (--criterion list)"
    no_clock = "nothing here asks for latency; give --target latency=... or --allocate latency"
    idle = {} if scores_data else dict.fromkeys(("loss", "gradients"), no_loss)
    if not scores_data and run.repair == "none":
        idle |= dict.fromkeys(("data", "samples", "batch_size", "image"), no_data)
    elif run.data is None:
        idle |= dict.fromkeys(("samples", "batch_size", "image"), "nothing here looks at it without --data")
    if not clocked:
        idle["latency_table"] = no_clock
    if not timed and (not clocked or run.latency_table is not None):
        idle |= dict.fromkeys(("threads", "provider"), no_clock if not clocked else "nothing is measured here with --latency-table")
    return idle


def listed(entries: Iterable[str]) -> list[str]:
    """Return the entries of lists separated by commas."""
    return [entry.strip() for text in entries for entry in text.split(",")]
