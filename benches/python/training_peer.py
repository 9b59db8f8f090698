"""The peer of `host train` in `cargo xtask bench training`: the same training by Python's xgboost.

Usage: training_peer.py DATA --rounds N --max-depth N --threads N

Prints one line of JSON with the seconds and the test accuracy. What is timed is what `host train` counts as training:
libxgboost's copy of the rows, the rounds, and after each of them the metrics of both splits. Not timed: reading the
files and scaling the pixels.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import xgboost as xgb


def read(path: Path, head_bytes: int) -> np.ndarray:
    """Reads the bytes of an IDX file after its head."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=head_bytes)


def split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Gives features, not yet scaled, and labels."""
    pixels = read(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    labels = read(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
    return pixels.astype(np.float32), labels.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--max-depth", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()

    (train, train_labels), (test, test_labels) = split(arguments.data, "train"), split(arguments.data, "t10k")
    brightest = train.max()
    train, test = train / brightest, test / brightest
    parameters = {
        "objective": "multi:softprob",
        "num_class": 10,
        "tree_method": "hist",
        "max_depth": arguments.max_depth,
        "nthread": arguments.threads,
        "seed": 0,
    }
    started = time.perf_counter()
    train_rows = xgb.DMatrix(train, train_labels, nthread=arguments.threads)
    test_rows = xgb.DMatrix(test, test_labels, nthread=arguments.threads)
    booster = xgb.train(
        parameters,
        train_rows,
        arguments.rounds,
        evals=[(train_rows, "train"), (test_rows, "test")],
        verbose_eval=False,
    )
    seconds = time.perf_counter() - started
    accuracy = float((booster.predict(test_rows).argmax(axis=1) == test_labels).mean())
    print(json.dumps({"train_seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
