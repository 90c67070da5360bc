"""Train a network on CIFAR-10 for a few minutes: the trained network that cuts are compared on. Needs torch.

usage: python tools/bench/train.py MODEL.onnx CIFAR_FOLDER OUT.onnx [--images N] [--epochs N]

CIFAR_FOLDER holds a module cifar10 with load(split, count) that returns images [n, 32, 32, 3] and labels, both uint8.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import onnx_reconvene as rc

MEAN, SPREAD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)  # of the training images, by channel
BATCH = 64


def prepared(split: str, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images [n, 3, 32, 32] of zero mean and unit variance, and labels."""
    from cifar10 import load

    images, labels = load(split, count)
    scaled = (images / 255.0 - np.asarray(MEAN)) / np.asarray(SPREAD)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32), labels.astype(np.int64)


def accuracy(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images that a network tells right."""
    module.eval()
    with torch.no_grad():
        return float((torch.cat([module(part).argmax(1) for part in images.split(500)]) == labels).float().mean())


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    torch.manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in prepared("train", given.images))
    tested, truth = (torch.from_numpy(array) for array in prepared("test", 2000))
    model = onnx.load(given.model)
    module = rc.to_torch(model)
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, total_steps=given.epochs * steps)
    for epoch in range(given.epochs):
        module.train()
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = images[chosen].flip(3) if torch.rand(1) < 0.5 else images[chosen]
            loss = torch.nn.functional.cross_entropy(module(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: {accuracy(module, tested, truth):.3f}", flush=True)
    onnx.save(rc.from_torch(model, module), given.out)


if __name__ == "__main__":
    main()
