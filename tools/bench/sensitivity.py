"""Does the sensitivity of a group foretell what accuracy is lost with half of it? Needs torch.

usage: python tools/bench/sensitivity.py CIFAR_FOLDER NAME=TRAINED.onnx ... [--images N] [--seeds N]

TRAINED.onnx: a network trained by train.py. Group by group, half of its channels are cut (l2), the network is trained for one pass
over N images and tested on 4,000. Groups that sensitivity.json has already are not done again. The rank correlation of the accuracy
lost with the sensitivity is set against those with the width of a group and the mean magnitude of its weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import onnx
import torch
from common import HERE, table
from numpy.typing import NDArray
from scipy.stats import spearmanr
from train import accuracy, prepared

import onnx_reconvene as rc
from onnx_reconvene.allocate.reconvene import shares_of_units
from onnx_reconvene.allocate.response import responses
from onnx_reconvene.cost import CostModel
from onnx_reconvene.saliency import Context, criteria, element_scores, layer_weights

RESULTS = HERE / "sensitivity.json"
CRITERION, TESTED = "l2", 4000


def retrained(model: onnx.ModelProto, seed: int, data: tuple[NDArray[Any], ...]) -> float:
    """Return the accuracy after one pass over the images."""
    torch.manual_seed(seed)
    images, labels, tested, truth = (torch.from_numpy(array) for array in data)
    module = rc.to_torch(model)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for chosen in torch.randperm(len(images)).split(64):
        with torch.autocast("cpu", torch.bfloat16):
            logits = module(images[chosen])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), labels[chosen]).backward()
        optimizer.step()
    return accuracy(module, tested, truth)


def foretold(path: str) -> dict[str, dict[str, float]]:
    """Return what is known of each group before any of it is cut: sensitivities, width, mean magnitude."""
    analysis = rc.analyze(path)
    weights = {name: values for name, (values, _) in layer_weights(analysis).items()}
    halves = np.array([group.width // 2 for group in analysis.groups])
    found: dict[str, dict[str, float]] = {group.name: {"width": group.width} for group in analysis.groups}
    for group in analysis.groups:
        own = {site.tensor for site in group.sites} & weights.keys()
        found[group.name]["mean magnitude"] = float(np.mean([np.abs(weights[name]).mean() for name in own]))
    scores, cost = criteria[CRITERION].score(analysis, Context()), CostModel(analysis)
    felt = {"response of the outputs": responses(analysis, scores, halves, cost("macs", cost.dense))}
    for method in ("l2", "synflow"):
        elements = element_scores(analysis, method, Context())
        felt[f"share of {method} lost"] = shares_of_units(analysis, scores, elements.by_weight).lost(halves)
    for column, values in felt.items():
        for group, value in zip(analysis.groups, [] if values is None else values.tolist(), strict=values is not None):
            found[group.name][column] = value
    return found


def main() -> None:
    """Cut, train, test and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("networks", nargs="+", metavar="NAME=TRAINED.onnx")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    torch.set_num_threads(1)
    data = (*prepared("train", given.images), *prepared("test", TESTED))
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, _, path in (pair.partition("=") for pair in given.networks):
        model, foreseen = onnx.load(path), foretold(path)
        key = f"{name}, {given.images} images, {given.seeds} seeds"
        rows = done.setdefault(key, {})
        for group in ["", *foreseen]:
            if group not in rows:
                keep = dict.fromkeys(foreseen, 1.0) | {group: 0.5}
                options = {"target": "channels=1", "keep": keep, "criterion": CRITERION, "round_to": 1, "rectify": "none"}
                cut = rc.prune(model, **options, verify=False).model if group else model
                rows[group] = {"accuracy": [retrained(cut, seed, data) for seed in range(given.seeds)]}
                print(name, group, rows[group], flush=True)
            rows[group] |= foreseen.get(group, {})
            RESULTS.write_text(json.dumps(done, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(report(done))


def report(done: dict[str, Any]) -> str:
    """Return the rank correlations, and beneath them the groups."""
    parts = ["# Sensitivity", "    python tools/bench/sensitivity.py CIFAR_FOLDER NAME=TRAINED.onnx ..."]
    for key, rows in done.items():
        whole = np.mean(rows[""]["accuracy"])
        groups = {name: row for name, row in rows.items() if name}
        lost = [whole - np.mean(row["accuracy"]) for row in groups.values()]
        known = [column for column in next(iter(groups.values())) if column != "accuracy"]
        ranks = [(column, f"{spearmanr(lost, [row[column] for row in groups.values()])[0]:.2f}") for column in known]
        parts += [f"## {key}", table(("known before", "rank correlation with the accuracy lost"), ranks)]
        body = [
            (name, f"{100 * x:.1f}", *(f"{row[column]:.3g}" for column in known))
            for (name, row), x in zip(groups.items(), lost, strict=True)
        ]
        parts.append(table(("group", "points lost", *known), body))
    return "\n\n".join(filter(None, parts)) + "\n"


if __name__ == "__main__":
    main()
