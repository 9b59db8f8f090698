"""Loads a model file with Python's xgboost and compares its predictions with the host's.

Usage: compare_predictions.py MODEL.ubj PREDICTED.jsonl MNIST_FOLDER
Prints one JSON object.
"""

import gzip
import json
import pathlib
import sys

import numpy as np
import xgboost as xgb
from sklearn import metrics

model_path, predicted_path, mnist = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])


def idx(name: str, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress((mnist / name).read_bytes()), np.uint8, offset=offset)


# What `mnist-pixels` learns from MNIST is that the brightest pixel is 255.
scale = np.float32(255)
images = idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32) / scale
labels = idx("t10k-labels-idx1-ubyte.gz", 8)
booster = xgb.Booster()
booster.load_model(model_path)
expected = booster.predict(xgb.DMatrix(images))
rows = [json.loads(line) for line in open(predicted_path, encoding="utf-8")]
found_labels = np.array([row["label"] for row in rows])
found = np.array([row["probability"] for row in rows], np.float32)
predicted = expected.argmax(axis=1)
averages = metrics.precision_recall_fscore_support(labels, predicted, average="macro")
of_classes = metrics.precision_recall_fscore_support(labels, predicted)
# scikit-learn takes probabilities that sum to 1 in their own type.
areas = [metrics.roc_auc_score(labels == digit, expected[:, digit]) for digit in range(10)]
json.dump(
    {
        "rows": len(rows),
        "labels_differing": int((expected.argmax(axis=1) != found_labels).sum()),
        "largest_difference": float(np.abs(expected.max(axis=1) - found).max()),
        "accuracy": float((found_labels == labels).mean()),
        "metrics": {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "log_loss": metrics.log_loss(labels, expected),
            "precision_macro": averages[0],
            "recall_macro": averages[1],
            "f1_macro": averages[2],
            "roc_auc": float(np.mean(areas)),
        },
        "classes": [
            {"precision": precision, "recall": recall, "f1": f1, "rows": int(rows), "roc_auc": float(area)}
            for precision, recall, f1, rows, area in zip(*of_classes, areas)
        ],
    },
    sys.stdout,
)
