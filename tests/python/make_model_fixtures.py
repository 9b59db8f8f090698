"""Writes the golden models of host/src/model/fixtures with Python's xgboost (pinned in requirements.txt).

Each fixture is one small model as UBJSON and as JSON, and a JSON file of inputs with the scores that libxgboost gives
for them, both as the bits of 32-bit floats, because JSON has neither NaN nor infinity.

    python tests/python/make_model_fixtures.py
"""

import json
import pathlib

import numpy
import xgboost

FIXTURES = pathlib.Path(__file__).parents[2] / "host/src/model/fixtures"
FEATURES = 6
ROUNDS = 2
SPECIAL = [
    float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38,
]


def training_rows(generator, rows=400):
    """Rows with missing features, so that default directions are learned both ways, and a label that needs them."""
    features = generator.normal(size=(rows, FEATURES)).astype(numpy.float32)
    signal = features[:, 0] - features[:, 1] * features[:, 2] + generator.normal(scale=0.3, size=rows)
    signal += numpy.where(features[:, 3] > 1.0, 2.0, 0.0)
    features[generator.random(features.shape) < 0.15] = numpy.nan
    return features, signal.astype(numpy.float32)


def fuzzed_rows(generator, booster, rows=48):
    """Rows of ordinary and special values and of the trees' own thresholds, where `<` and `<=` differ."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    thresholds = numpy.array(sorted({c for tree in trees for c in tree["split_conditions"]}), dtype=numpy.float32)
    special = numpy.concatenate([numpy.array(SPECIAL, dtype=numpy.float32), thresholds])
    features = generator.normal(size=(rows, FEATURES)).astype(numpy.float32)
    replaced = generator.random(features.shape) < 0.5
    features[replaced] = generator.choice(special, size=int(replaced.sum()))
    features[0] = numpy.nan
    features[1] = 0.0
    return features


def bits(values):
    return numpy.ascontiguousarray(values, dtype=numpy.float32).reshape(-1).view(numpy.uint32).tolist()


def write(name, parameters, labels):
    generator = numpy.random.default_rng(20240229)
    features, signal = training_rows(generator)
    parameters = {"max_depth": 3, "eta": 0.5, "seed": 7, "nthread": 1, "tree_method": "hist", **parameters}
    data = xgboost.DMatrix(features, label=labels(signal), nthread=1)
    booster = xgboost.train(parameters, data, num_boost_round=ROUNDS)
    rows = fuzzed_rows(generator, booster)
    # `inplace_predict` takes infinity, which a DMatrix refuses. `strict_shape`: one row of scores for each row.
    scores = booster.inplace_predict(rows, missing=numpy.nan, strict_shape=True)
    for extension in ["ubj", "json"]:
        (FIXTURES / f"{name}.{extension}").write_bytes(bytes(booster.save_raw(extension)))
    case = {
        "xgboost": xgboost.__version__,
        "features": FEATURES,
        "scores": scores.shape[1],
        "feature_bits": bits(rows),
        "score_bits": bits(scores),
    }
    (FIXTURES / f"{name}.case.json").write_text(json.dumps(case, separators=(",", ":")) + "\n")


def main():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    write(
        "softprob",
        {"objective": "multi:softprob", "num_class": 3, "eval_metric": "mlogloss"},
        lambda signal: numpy.digitize(signal, [-0.7, 0.7]),
    )
    write("logistic", {"objective": "binary:logistic"}, lambda signal: signal > 0.3)
    write("squarederror", {"objective": "reg:squarederror"}, lambda signal: signal)


if __name__ == "__main__":
    main()
