"""Whether a network has been trained.

Any step of training moves what starts at a constant (statistics and scales of norms, zero biases) off it, and uniform weights off
the numbers that their generator can return. So a network counts as initialized only where every parameter is such as a known
initializer leaves it, and some of them show it exactly. What cannot be told counts as trained: an untrained network taken for a
trained one loses nothing but new weights, the other way round its training would be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx_reconvene.graph import Source
from onnx_reconvene.initializers import BIASES, BOUND, KNOWN, Initializer, Sample, of_wider_layers
from onnx_reconvene.parameters import NORMS, Parameter, is_float, parameters

INITIALIZED, TRAINED = "initialized", "trained"


@dataclass(frozen=True)
class Stage:
    """Initialized or trained, the reason, and of an initialized network what each of its random parameters was drawn from."""

    name: str
    why: str
    initializers: Mapping[str, Initializer] = field(default_factory=dict)


def stage_of(source: Source) -> Stage:
    """Return the stage of a network in plain form."""
    found = parameters(source)
    if not any(p.part == "weight" for p in found):
        return Stage(TRAINED, "it has no layer with a stored weight")
    moved = next((p for p in found if not is_float(p.values) or (p.part == "start" and not _starts(p))), None)
    if moved is not None:
        return Stage(TRAINED, _why_moved(moved))
    random: list[Parameter] = []
    samples: dict[str, Sample] = {}
    fitting: dict[str, list[Initializer]] = {}
    for p in found:
        if _is_constant(p) or _is_mask(p):
            continue
        random.append(p)
        samples[p.name] = samples.get(p.name) or Sample(p.values)
        fits = _fitting(p, samples[p.name])
        if not fits and not fitting.get(p.name):
            return Stage(TRAINED, f"'{p.name}' fits no known initializer")
        fitting.setdefault(p.name, fits)
    return _judged(found, random, samples, _chosen(fitting))


def _fitting(p: Parameter, sample: Sample) -> list[Initializer]:
    """Return the initializers that may have drawn a parameter: known ones, else, where a BatchNormalization takes the scale away,
    one for a wider layer: that is what is drawn there for a layer that is cut."""
    fits = [known for known in (BIASES if p.part == "bias" else KNOWN) if known.fits(sample, p.fans)]
    return fits or [wider for wider in of_wider_layers(sample, p.fans) if p.scale_free and wider.fits(sample, p.fans)][:1]


def batch_norms_start(source: Source) -> bool:
    """Return True if a network has BatchNormalizations, all of which have their initial values."""
    norms = [p for p in parameters(source) if p.node.op_type == "BatchNormalization" and p.part == "start"]
    return bool(norms) and all(_starts(p) for p in norms)


def _judged(
    found: Sequence[Parameter], random: Sequence[Parameter], samples: Mapping[str, Sample], chosen: Mapping[str, Initializer]
) -> Stage:
    """Return the stage of a network whose parameters all fit, by what shows exactly that they have not moved."""
    uniform = [p for p in random if chosen[p.name].law == "uniform" and not p.scale_free]
    on_grid = {p.name: samples[p.name].is_on_grid(BOUND["uniform"] * (chosen[p.name].deviation(p.fans) or 0)) for p in uniform}
    left = [name for name, on in on_grid.items() if on is False]
    stay = [name for name, on in on_grid.items() if on]
    if left and stay:
        return Stage(TRAINED, f"'{left[0]}' holds numbers that the generator of other weights, such as '{stay[0]}', cannot return")
    if not stay and not any(_is_evidence(p) for p in found):
        return Stage(TRAINED, "nothing in it shows exactly that it has not been trained")
    names = [name for name, _ in Counter(initializer.name for initializer in chosen.values()).most_common()]
    drawn = "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")
    return Stage(INITIALIZED, f"all {len({p.name for p in found})} parameters are as initializers leave them ({drawn})", chosen)


def _is_evidence(p: Parameter) -> bool:
    """Return True if a constant would have moved in training, and is not one that an exporter may have put there."""
    if p.part == "bias":
        return _is_constant(p) and p.values.size > 1
    return p.part == "start" and (p.start is not None or p.node.op_type not in NORMS) and p.node.op_type != "InstanceNormalization"


def _starts(p: Parameter) -> bool:
    return _is_constant(p) and (p.start is None or float(p.values.flat[0]) == p.start)


def _is_constant(p: Parameter) -> bool:
    first = p.values.flat[0]
    return bool((p.values.flat[:64] == first).all() and (p.values == first).all())  # most show it at once


def _is_mask(p: Parameter) -> bool:
    """Return True if a table holds but two values."""
    return p.part == "table" and bool(((p.values == p.values.min()) | (p.values == p.values.max())).all())


def _why_moved(p: Parameter) -> str:
    if not is_float(p.values):
        return f"'{p.name}' is quantized"
    return f"'{p.name}' is not at an initial value, which would be {'the same for all' if p.start is None else f'{p.start:g}'}"


def _chosen(fitting: Mapping[str, Sequence[Initializer]]) -> dict[str, Initializer]:
    """Return for each parameter, of the initializers that fit, the one that fits most parameters of the network."""
    votes = Counter(initializer for fits in fitting.values() for initializer in fits)
    return {name: max(fits, key=lambda initializer: votes[initializer]) for name, fits in fitting.items() if fits}
