"""A program that trains for `host train --model command`, as a user writes it.

Usage: host train --model command -- python train_command.py --depth 3
"""

import argparse
import hashlib
import json
import os
import pathlib

import mlflow
import numpy as np
import xgboost as xgb


def read(path: str) -> dict[str, np.ndarray]:
    """The columns of a file of rows, which is safetensors with nothing but FP32."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    del header["__metadata__"]
    start = 8 + size
    return {
        name: np.memmap(path, "<f4", "r", start + of["data_offsets"][0], tuple(of["shape"]))
        for name, of in header.items()
    }


class Report(xgb.callback.TrainingCallback):
    """Reports each round to MLflow, and to the host without it."""

    def after_iteration(self, model, epoch, evals_log):
        losses = {f"{rows}-mlogloss": values["mlogloss"][-1] for rows, values in evals_log.items()}
        mlflow.log_metrics({f"python-{name}": loss for name, loss in losses.items()}, step=epoch + 1)
        with open(os.environ["HOST_METRICS_OUT"], "a", encoding="utf-8") as file:
            print(epoch + 1, *(f"{name}={loss}" for name, loss in losses.items()), file=file)
        return False


arguments = argparse.ArgumentParser()
arguments.add_argument("--depth", type=int, default=3)
depth = arguments.parse_args().depth
parameters = json.loads(os.environ["HOST_PARAMS"])

train, test = read(os.environ["HOST_TRAIN_ROWS"]), read(os.environ["HOST_TEST_ROWS"])
matrices = {
    name: xgb.DMatrix(np.array(rows["features"]), label=np.array(rows["label"]))
    for name, rows in [("train", train), ("test", test)]
}
booster = xgb.train(
    params={
        "objective": "multi:softprob",
        "num_class": int(train["label"].max()) + 1,
        "max_depth": depth,
        "eta": parameters.get("eta", 0.3),
        "seed": int(os.environ["HOST_SEED"]),
        "nthread": int(os.environ["HOST_THREADS"]),
    },
    dtrain=matrices["train"],
    num_boost_round=parameters.get("rounds", 5),
    evals=[(matrix, name) for name, matrix in matrices.items()],
    callbacks=[Report()],
    verbose_eval=False,
)
booster.save_model(os.environ["HOST_MODEL_OUT"])

if "SCORES" in os.environ:
    pathlib.Path(os.environ["SCORES"]).write_text(json.dumps(booster.predict(matrices["test"]).tolist()))
folder = pathlib.Path(os.environ["HOST_DATA_DIR"])
files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.csv")}
columns = json.loads(pathlib.Path(os.environ["HOST_COLUMNS"]).read_text())
told = {
    "files": files,
    "columns": [column["name"] for column in columns],
    "dataset": os.environ["HOST_DATASET"],
    "label": os.environ["HOST_LABEL"],
    "here": sorted(os.listdir(".")),
    "run": mlflow.active_run().info.run_id,
}
print(json.dumps(told))
