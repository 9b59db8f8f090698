"""Writes the golden models of host/src/model/fixtures with Python's xgboost (pinned in requirements.txt).

Each fixture is one small model as UBJSON and as JSON, and a JSON file of inputs with the scores that libxgboost gives
for them, both as the bits of 32-bit floats, because JSON has neither NaN nor infinity.

    python tests/python/make_model_fixtures.py

With another version of xgboost it writes a few models, and its own scores of them, into a folder of that version. The
pinned version scores them alike, except trees with several values in a leaf, which it cannot load: it ends with a
segmentation fault.
"""

import json
import pathlib

import numpy
import xgboost

FIXTURES = pathlib.Path(__file__).parents[2] / "host/src/model/fixtures"
PINNED = "3.2.0"
FEATURES = 6
ROUNDS = 2
SPECIAL = [
    float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38,
]
# Categories that are none: negative, fractions, unknown, and more than floats can count.
CATEGORIES = [-1.0, -0.5, 0.5, 3.99, 40.0, 1e6, 16777215.0, 16777216.0]


def training_rows(generator, rows=400):
    """Rows with missing features, so that default directions are learned both ways, and a label that needs them."""
    features = generator.normal(size=(rows, FEATURES)).astype(numpy.float32)
    signal = features[:, 0] - features[:, 1] * features[:, 2] + generator.normal(scale=0.3, size=rows)
    signal += numpy.where(features[:, 3] > 1.0, 2.0, 0.0)
    features[generator.random(features.shape) < 0.15] = numpy.nan
    return features, signal.astype(numpy.float32)


def trees_of(booster):
    learner = json.loads(booster.save_raw("json"))["learner"]
    model = learner["gradient_booster"]
    return model.get("gbtree", model)["model"].get("trees", [])


def fuzzed_rows(generator, booster, rows=48, special=SPECIAL):
    """Rows of ordinary and special values and of the trees' own thresholds, where `<` and `<=` differ."""
    thresholds = sorted({c for tree in trees_of(booster) for c in tree["split_conditions"]})
    special = numpy.array(special + thresholds, dtype=numpy.float32)
    features = generator.normal(size=(rows, FEATURES)).astype(numpy.float32)
    replaced = generator.random(features.shape) < 0.5
    features[replaced] = generator.choice(special, size=int(replaced.sum()))
    features[0] = numpy.nan
    features[1] = 0.0
    return features


def bits(values):
    return numpy.ascontiguousarray(values, dtype=numpy.float32).reshape(-1).view(numpy.uint32).tolist()


def predict(booster, rows):
    """Scores, a row of them for each row. `multi:softmax` is asked for probabilities, as the host tells them."""
    config = json.loads(booster.save_config())["learner"]
    if config["objective"]["name"] == "multi:softmax":
        booster.set_param({"objective": "multi:softprob"})
    if config["gradient_booster"]["name"] == "gbtree":
        # It takes infinity, which a DMatrix refuses.
        return booster.inplace_predict(rows, missing=numpy.nan, strict_shape=True)
    # It adds the leaves of `dart` in another way than `predict`, and does not know `gblinear`.
    return booster.predict(xgboost.DMatrix(rows, missing=numpy.nan, nthread=1), strict_shape=True)


def write_case(path, booster, rows):
    scores = predict(booster, rows)
    case = {
        "xgboost": xgboost.__version__,
        "features": FEATURES,
        "scores": scores.shape[1],
        "feature_bits": bits(rows),
        "score_bits": bits(scores),
    }
    path.write_text(json.dumps(case, separators=(",", ":")) + "\n")


def train(generator, parameters, labels, rounds=ROUNDS, prepare=None, categories=0, depth=3):
    """A model of rows whose last `categories` features are categories, as `max_cat_to_onehot` treats them."""
    features, signal = training_rows(generator)
    label = labels(signal) if labels else None
    types = {}
    if categories:
        numbers = generator.integers(0, 12, size=(len(features), categories)).astype(numpy.float32)
        label = label + numpy.isin(numbers[:, 0], [1, 4, 7]) * 2 - (numbers[:, -1] == 3)
        numbers[generator.random(numbers.shape) < 0.1] = numpy.nan
        features[:, -categories:] = numbers
        types = {"feature_types": ["q"] * (FEATURES - categories) + ["c"] * categories, "enable_categorical": True}
    parameters = {"max_depth": depth, "eta": 0.5, "seed": 7, "nthread": 1, "verbosity": 0, **parameters}
    if parameters.get("booster") != "gblinear":
        parameters.setdefault("tree_method", "hist")
    data = xgboost.DMatrix(features, label=label, nthread=1, **types)
    if prepare:
        prepare(data, signal)
    return xgboost.train(parameters, data, num_boost_round=rounds)


def save(folder, name, booster, extensions=("ubj", "json")):
    folder.mkdir(parents=True, exist_ok=True)
    for extension in extensions:
        (folder / f"{name}.{extension}").write_bytes(bytes(booster.save_raw(extension)))


def write(name, parameters, labels, rows=48, extensions=("ubj", "json"), **more):
    generator = numpy.random.default_rng(20240229)
    booster = train(generator, parameters, labels, **more)
    save(FIXTURES, name, booster, extensions)
    # As anyone does who has the file: `inplace_predict` takes what training noted of features for granted.
    booster = xgboost.Booster(model_file=booster.save_raw("ubj"))
    special = SPECIAL + CATEGORIES + list(range(13)) if more.get("categories") else SPECIAL
    if parameters.get("booster") in ["dart", "gblinear"]:
        special = [value for value in special if not numpy.isinf(value)]
    if parameters.get("booster") == "gblinear":
        special = [value for value in special if not abs(value) > 1e30]
    write_case(FIXTURES / f"{name}.case.json", booster, fuzzed_rows(generator, booster, rows, special))


def classes(signal):
    return numpy.digitize(signal, [-0.7, 0.7])


def positive(signal):
    return numpy.exp(signal / 3)


def counts(signal):
    return numpy.round(numpy.exp(signal / 3))


def targets(signal):
    return numpy.stack([signal, 1 - 2 * signal, numpy.abs(signal)], axis=1)


def groups(data, signal):
    data.set_group([100] * 4)


def censored(data, signal):
    data.set_float_info("label_lower_bound", positive(signal))
    data.set_float_info("label_upper_bound", numpy.where(signal > 1, numpy.inf, positive(signal)))


def objectives():
    """Each objective of which no other fixture is: one small tree, or for several outputs one each, as JSON."""
    small = {"rounds": 1, "depth": 2, "rows": 16, "extensions": ["json"]}
    plain = {
        "reg:absoluteerror": lambda signal: signal,
        "reg:gamma": positive,
        "reg:logistic": lambda signal: 1 / (1 + numpy.exp(-signal)),
        "reg:pseudohubererror": lambda signal: signal,
        "reg:squaredlogerror": positive,
        "reg:tweedie": counts,
        "count:poisson": counts,
        "survival:cox": positive,
        "binary:hinge": lambda signal: signal > 0,
        "binary:logitraw": lambda signal: signal > 0,
    }
    for objective, labels in plain.items():
        write(objective.replace(":", "-"), {"objective": objective}, labels, **small)
    write("survival-aft", {"objective": "survival:aft"}, None, prepare=censored, **small)
    quantiles = {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}
    write("reg-quantileerror", quantiles, lambda signal: signal, **small)
    write("multi-softmax", {"objective": "multi:softmax", "num_class": 3}, classes, **small)
    for objective, labels in [("pairwise", classes), ("ndcg", classes), ("map", lambda signal: signal > 0)]:
        write(f"rank-{objective}", {"objective": f"rank:{objective}"}, labels, prepare=groups, **small)


def boosters():
    dropping = {"booster": "dart", "rate_drop": 0.5, "one_drop": True}
    write("dart", dropping, lambda signal: signal, rounds=5, depth=2, rows=32)
    softprob = {"objective": "multi:softprob", "num_class": 3}
    write("dart-softprob", {**dropping, **softprob}, classes, rounds=3, depth=2, rows=32)
    linear = {"booster": "gblinear", "eta": 0.5}
    write("linear", linear, lambda signal: signal, rounds=5, rows=32)
    write("linear-softprob", {**linear, **softprob, "updater": "coord_descent"}, classes, rounds=5, rows=32)
    write("linear-poisson", {**linear, "objective": "count:poisson"}, counts, rounds=5, rows=32)
    forest = {"num_parallel_tree": 3, "subsample": 0.5, "colsample_bynode": 0.6}
    write("forest", forest, lambda signal: signal, depth=2, rows=32)


def splits_and_targets():
    write("categories", {"max_cat_to_onehot": 4}, lambda signal: signal, categories=2, rows=64)
    write("categories-onehot", {"max_cat_to_onehot": 20}, lambda signal: signal, categories=2, rows=48)
    dart = {"booster": "dart", "rate_drop": 0.5, "max_cat_to_onehot": 4}
    write("categories-dart", dart, lambda signal: signal, categories=2, rounds=3, rows=48, depth=2)
    write("targets", {}, targets, rounds=1, rows=32)
    vectors = {"multi_strategy": "multi_output_tree"}
    write("targets-vector", vectors, targets, rows=32)
    logistic = {"objective": "binary:logistic"}
    write("labels", logistic, lambda signal: targets(signal) > 0.5, rounds=1, depth=2, rows=32)
    write("labels-vector", {**logistic, **vectors}, lambda signal: targets(signal) > 0.5, rows=32, depth=2)
    softprob = {"objective": "multi:softprob", "num_class": 3}
    write("softprob-vector", {**softprob, **vectors}, classes, rows=32, depth=2)
    write("untrained", logistic, lambda signal: signal > 0, rounds=0, rows=2)


def older():
    """What this version saves in its own way."""
    folder = FIXTURES / xgboost.__version__
    kinds = {
        "logistic": ({"objective": "binary:logistic"}, lambda signal: signal > 0.3, {}),
        "softprob": ({"objective": "multi:softprob", "num_class": 3}, classes, {"rounds": 1}),
        "categories": ({"max_cat_to_onehot": 4}, lambda signal: signal, {"categories": 2}),
    }
    if xgboost.__version__ >= "2":
        kinds["targets-vector"] = ({"multi_strategy": "multi_output_tree"}, targets, {})
    for name, (parameters, labels, more) in kinds.items():
        generator = numpy.random.default_rng(20240229)
        booster = train(generator, parameters, labels, depth=2, **more)
        save(folder, name, booster)
        special = SPECIAL + CATEGORIES + list(range(13)) if more.get("categories") else SPECIAL
        write_case(folder / f"{name}.case.json", booster, fuzzed_rows(generator, booster, 24, special))


def main():
    if xgboost.__version__ != PINNED:
        return older()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    softprob = {"objective": "multi:softprob", "num_class": 3, "eval_metric": "mlogloss"}
    write("softprob", softprob, classes)
    write("logistic", {"objective": "binary:logistic"}, lambda signal: signal > 0.3)
    write("squarederror", {"objective": "reg:squarederror"}, lambda signal: signal)
    objectives()
    boosters()
    splits_and_targets()
    return None


if __name__ == "__main__":
    main()
