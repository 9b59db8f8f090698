"""Trains models of every kind with random parameters on random rows, and says what libxgboost predicts.

Usage: random_models.py FOLDER SEED
Writes into FOLDER the rows as a dataset (rows.safetensors, one column `features`), each model as KIND.ubj or KIND.json,
and expected.json: the bits of the scores of each.
"""

import json
import pathlib
import sys

import numpy
import xgboost
from make_model_fixtures import bits, predict

ROWS, NUMBERS, CATEGORIES = 300, 5, 3
FEATURES = NUMBERS + CATEGORIES
TYPES = ["q"] * NUMBERS + ["c"] * CATEGORIES


def random_rows(random, rows):
    """Numbers, then categories of which some are frequent, with a tenth to a third missing."""
    numbers = random.normal(scale=random.choice([0.01, 1.0, 1000.0], size=NUMBERS), size=(rows, NUMBERS))
    counts = random.integers(2, 40, size=CATEGORIES)
    categories = random.integers(0, counts, size=(rows, CATEGORIES))
    features = numpy.concatenate([numbers, categories], axis=1).astype(numpy.float32)
    features[random.random(features.shape) < random.uniform(0.1, 0.3)] = numpy.nan
    signal = numpy.nan_to_num(numbers / numpy.abs(numbers).max(axis=0)).sum(axis=1)
    signal += numpy.isin(categories, [0, 1, 3, 8, 20]).sum(axis=1) + random.normal(scale=0.2, size=rows)
    return features, (signal - signal.mean()).astype(numpy.float32)


def labels_of(signal):
    """For each objective labels that it takes."""
    positive = numpy.exp(signal / 4)
    counts, classes, one = numpy.round(positive), numpy.digitize(signal, [-1, 0, 1]), (signal > 0) * 1.0
    return {
        "reg:squarederror": signal, "reg:squaredlogerror": positive, "reg:absoluteerror": signal,
        "reg:pseudohubererror": signal, "reg:quantileerror": signal, "reg:logistic": 1 / (1 + 1 / positive),
        "reg:gamma": positive, "reg:tweedie": counts, "count:poisson": counts, "survival:cox": positive,
        "survival:aft": positive, "binary:logistic": one, "binary:logitraw": one, "binary:hinge": one,
        "multi:softprob": classes, "multi:softmax": classes, "rank:pairwise": classes, "rank:ndcg": classes,
        "rank:map": one,
    }


def trained(random, features, label, parameters, categorical=False):
    """A model, the rows of which may name their categories."""
    random_ones = {
        "max_depth": int(random.integers(1, 7)),
        "eta": float(random.uniform(0.05, 1.0)),
        "seed": int(random.integers(1 << 30)),
        "nthread": 1,
        "verbosity": 0,
    }
    if parameters.get("booster") != "gblinear":
        random_ones |= {
            "tree_method": str(random.choice(["hist", "approx"])),
            "max_cat_to_onehot": int(random.integers(1, 30)),
            "max_bin": int(random.integers(2, 64)),
            "lambda": float(random.uniform(0, 3)),
            "subsample": float(random.uniform(0.5, 1)),
            "colsample_bynode": float(random.uniform(0.5, 1)),
            "num_parallel_tree": int(random.choice([1, 1, 3])),
        }
    parameters = {**random_ones, **parameters}
    types = {"feature_types": TYPES, "enable_categorical": True} if categorical else {}
    data = xgboost.DMatrix(features, label=label, nthread=1, **types)
    if parameters.get("objective") == "survival:aft":
        data.set_float_info("label_lower_bound", label)
        data.set_float_info("label_upper_bound", numpy.where(label > 1, numpy.inf, label))
    if parameters.get("objective", "").startswith("rank:"):
        data.set_group([ROWS // 3] * 3)
    return parameters, xgboost.train(parameters, data, num_boost_round=int(random.integers(1, 9)))


def kinds(random, signal):
    """Name, label and parameters of each model, and whether it is told of categories."""
    labels = labels_of(signal)
    for objective, label in labels.items():
        parameters = {"objective": objective}
        if objective.startswith("multi:"):
            parameters["num_class"] = 4
        if objective == "reg:quantileerror":
            parameters["quantile_alpha"] = sorted(random.uniform(0.05, 0.95, size=3).tolist())
        booster = {} if objective == "survival:aft" else random.choice([{}, {"booster": "dart", "rate_drop": 0.4}])
        yield objective.replace(":", "-"), label, {**parameters, **booster}, bool(random.random() < 0.5)
    for objective in ["reg:squarederror", "binary:logistic", "multi:softprob", "count:poisson"]:
        parameters = {"objective": objective, "booster": "gblinear", "eta": 0.3}
        if objective.startswith("multi:"):
            parameters["num_class"] = 4
        yield "linear-" + objective.replace(":", "-"), labels[objective], parameters, False
    several = numpy.stack([signal, 1 - 2 * signal, signal**2], axis=1)
    vectors = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
    yield "targets", several, {}, True
    yield "targets-vector", several, vectors, False
    yield "labels", several > 0.5, {"objective": "binary:logistic"}, True
    yield "labels-vector", several > 0.5, {"objective": "binary:logistic", **vectors}, False
    classes = {"objective": "multi:softprob", "num_class": 4}
    yield "classes-vector", labels["multi:softprob"], {**classes, **vectors}, False
    yield "categories", signal, {"max_depth": 8, "eta": 0.1}, True


def write_rows(path, features):
    size = features.nbytes
    header = {"features": {"dtype": "F32", "shape": list(features.shape), "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + features.tobytes())


def main():
    folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    random = numpy.random.default_rng(seed)
    features, signal = random_rows(random, ROWS)
    rows, _ = random_rows(random, ROWS)
    # Of the training's numbers many are thresholds, nearly.
    rows = numpy.where(random.random(rows.shape) < 0.5, features, rows).astype(numpy.float32)
    write_rows(folder / "rows.safetensors", rows)
    expected = {}
    for name, label, parameters, categorical in kinds(random, signal):
        parameters, booster = trained(random, features, label, parameters, categorical)
        extension = str(random.choice(["ubj", "json"]))
        (folder / f"{name}.{extension}").write_bytes(bytes(booster.save_raw(extension)))
        scores = predict(xgboost.Booster(model_file=booster.save_raw("ubj")), rows)
        expected[f"{name}.{extension}"] = {"parameters": str(parameters), "score_bits": bits(scores)}
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
