"""The peer of `host train --model cnn|mlp` in `cargo xtask bench networks`: the same network by PyTorch on the processor.

Usage: networks_peer.py DATA --model cnn|mlp --epochs N --threads N

Prints one line of JSON with the seconds and the test accuracy. What is timed is what `host train` counts as training: the
epochs, with the loss and accuracy of the training rows as they are learned from, and after each epoch the scores of the
test rows. Not timed: reading the files and scaling the pixels.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH = 64


def read(path: Path, head_bytes: int) -> np.ndarray:
    """Reads the bytes of an IDX file after its head."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=head_bytes)


def split(folder: Path, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives pixels from 0 to 1, and labels."""
    pixels = read(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = read(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def network(model: str) -> nn.Module:
    """What the host makes by default."""
    if model == "mlp":
        layers = [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
        return nn.Sequential(*layers)
    return nn.Sequential(
        *[nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)],
    )


def accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Scores the test rows, a few at a time."""
    with torch.no_grad():
        right = [
            (model(pixels[at : at + 1_000]).argmax(1) == labels[at : at + 1_000]).sum().item()
            for at in range(0, len(labels), 1_000)
        ]
    return sum(right) / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", choices=["cnn", "mlp"], required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    (train, train_labels), (test, test_labels) = split(arguments.data, "train"), split(arguments.data, "t10k")
    model = network(arguments.model)
    started = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, foreach=True)
    steps = arguments.epochs * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    reached = 0.0
    for _ in range(arguments.epochs):
        order = torch.randperm(len(train))
        loss_sum, right = 0.0, 0
        for at in range(0, len(train), BATCH):
            rows = order[at : at + BATCH]
            labels = train_labels[rows]
            optimizer.zero_grad()
            logits = model(train[rows])
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(rows)
            right += (logits.argmax(1) == labels).sum().item()
        reached = accuracy(model, test, test_labels)
    seconds = time.perf_counter() - started
    print(json.dumps({"train_seconds": seconds, "accuracy": reached}))


if __name__ == "__main__":
    main()
