"""Exports models as their users do, and says what ONNX Runtime's own package predicts.

Usage: onnx_models.py FOLDER
Writes into FOLDER the rows (rows.csv with the features in one column each and a label, rows.json as requests), each model
as NAME.onnx, and expected.json: of each model the bits of its scores, row by row. Those of `exact_` have rows of their own,
which stand beside the bits; of those of `labels_` the labels stand there that scikit-learn predicts. The models whose names begin with `bad_` cannot be taken; what a host should say of each is in the tests.
"""

import json
import pathlib
import sys

import lightgbm
import numpy
import onnx
import onnxmltools
import onnxruntime
import skl2onnx.common._container
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC


def plain(value):
    """skl2onnx hands numpy's booleans to protobuf, whose newer versions refuse them."""
    if isinstance(value, (list, numpy.ndarray)) and len(value) and not isinstance(value[0], (str, bytes, float, numpy.floating)):
        return [int(one) for one in value]
    return int(value) if isinstance(value, (bool, numpy.bool_)) else value


make_node = skl2onnx.common._container.make_node
skl2onnx.common._container.make_node = lambda *arguments, **named: make_node(
    *arguments, **{name: plain(value) for name, value in named.items()}
)


def of_sklearn(rows, labels):
    """Models of scikit-learn and LightGBM, with maps as they are exported and with tensors."""
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    forest = RandomForestClassifier(20, random_state=0).fit(rows, labels)
    mlp = MLPClassifier((32, 16), random_state=0, max_iter=20).fit(rows, labels)
    regressor = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(rows, labels)
    boosted = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(rows, labels)
    binary = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(rows, (labels == 1).astype(int))
    double = rows.astype(numpy.float64)
    no_maps = {"zipmap": False}
    light = {"initial_types": [("x", FloatTensorType([None, rows.shape[1]]))], "target_opset": 15}
    return {
        "logistic_maps": to_onnx(logistic, rows[:1]),
        "logistic": to_onnx(logistic, rows[:1], options=no_maps),
        "logistic_double": to_onnx(logistic, double[:1], options=no_maps),
        "forest": to_onnx(forest, rows[:1], options=no_maps),
        "mlp_maps": to_onnx(mlp, rows[:1]),
        "regressor": to_onnx(regressor, rows[:1]),
        "lightgbm_maps": onnxmltools.convert_lightgbm(boosted, **light),
        "lightgbm": onnxmltools.convert_lightgbm(boosted, zipmap=False, **light),
        "lightgbm_binary": onnxmltools.convert_lightgbm(binary, zipmap=False, **light),
        "clusters": to_onnx(KMeans(3, random_state=0, n_init=1).fit(rows), rows[:1]),
    }


def of_labels(rows, labels):
    """Classifiers that say more of their scores or classes than others do, and the labels that they predict."""
    two, tens, text = (labels == 1).astype(int), (labels + 1) * 10, numpy.array(["a", "b", "c"])[labels]
    plain, no_maps, raw = {}, {"zipmap": False}, {"raw_scores": True, "zipmap": False}
    cases = {
        "labels_ridge": (RidgeClassifier(), two, plain),
        "labels_linear_svc": (LinearSVC(), labels, plain),
        "labels_linear_svc_of_two": (LinearSVC(), two, plain),
        "labels_logistic_raw": (LogisticRegression(), two, raw),
        "labels_boosted_raw": (GradientBoostingClassifier(n_estimators=5, random_state=0), two, raw),
        "labels_svc": (SVC(), labels, plain),
        "labels_svc_of_two": (SVC(), two, plain),
        "labels_svc_of_texts": (SVC(), numpy.array(["no", "yes"])[two], no_maps),
        "labels_from_one": (LogisticRegression(), two + 1, plain),
        "labels_of_tens": (RandomForestClassifier(5, random_state=0), tens, no_maps),
        "labels_of_tens_mlp": (MLPClassifier((8,), random_state=0, max_iter=20), tens, no_maps),
        "labels_of_texts": (LogisticRegression(), text, plain),
    }
    for name, (classifier, own, options) in cases.items():
        classifier.fit(rows, own)
        yield name, to_onnx(classifier, rows[:1], options=options), classifier.predict(rows).tolist()


def tensor(name, shape, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def model(nodes, inputs, outputs, weights=(), **more):
    initializers = [numpy_helper.from_array(value, name) for name, value in dict(weights).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def network(batch, last=()):
    """A small convolutional network over two by two pixels, as PyTorch exports one."""
    random = numpy.random.default_rng(1)
    weights = {
        "kernel": random.normal(size=(3, 1, 2, 2)).astype(numpy.float32),
        "weight": random.normal(size=(3, 3)).astype(numpy.float32),
        "bias": random.normal(size=3).astype(numpy.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        *[helper.make_node(operator, ["logits"], ["scores"]) for operator in last],
    ]
    output = "scores" if last else "logits"
    return model(nodes, [tensor("image", [batch, 1, 2, 2])], [tensor(output, [batch, 3])], weights)


def turns():
    """A loop that turns as often as the first feature says; its answer is how often that was."""
    ends = [tensor("turn", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("sum", ["n", 1])]
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["more"])]
    body = helper.make_graph(nodes, "body", ends, [tensor("on", [], TensorProto.BOOL), tensor("more", ["n", 1])])
    weights = {"first": numpy.array([0]), "go": numpy.array(True), "one": numpy.ones((1, 1), numpy.float32)}
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["count"], axis=1),
        helper.make_node("Sub", ["count", "count"], ["zero"]),
        helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "go", "zero"], ["y"], body=body),
    ]
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 1])], weights)


def tree(splits, back=None):
    """A tree of one more level than it has splits, each with a leaf beside the next; the last goes `back` instead."""
    count = 2 * splits + 1
    is_split = [place % 2 == 0 and place + 1 < count for place in range(count)]
    below = [place + 2 if splitting else 0 for place, splitting in enumerate(is_split)]
    if back is not None:
        below[-3] = back
    leaves = [place for place in range(count) if not is_split[place]]
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0] * count,
        nodes_nodeids=list(range(count)),
        nodes_featureids=[0] * count,
        nodes_values=[float(-place) for place in range(count)],
        nodes_modes=["BRANCH_LEQ" if splitting else "LEAF" for splitting in is_split],
        nodes_truenodeids=below,
        nodes_falsenodeids=[place + 1 if splitting else 0 for place, splitting in enumerate(is_split)],
        target_treeids=[0] * len(leaves),
        target_nodeids=leaves,
        target_ids=[0] * len(leaves),
        target_weights=[float(place) for place in leaves],
    )
    graph = helper.make_graph([node], "graph", [tensor("x", ["n", 4])], [tensor("y", ["n", 1])])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def made_here():
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    floats = [tensor("x", ["n", 4])], [tensor("y", ["n", 4])]
    two = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    many = [tensor("y", ["n", 4]), tensor("z", ["n", 4])]
    halves = {"shape": numpy.array([-1, 2])}
    external = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="../../../../../../etc/passwd")
    outside = model([helper.make_node("Add", ["x", "w"], ["y"])], *floats)
    outside.graph.initializer.append(external)
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external)], "then", [], [tensor("c", [4])])
    always = helper.make_node("Constant", [], ["true"], value=numpy_helper.from_array(numpy.array(True)))
    nested = model([always, helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)], *floats)
    gather = [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)]
    table = {"table": numpy.arange(4, dtype=numpy.float32)}
    parts = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Softmax", ["r"], ["y"], axis=-1)]
    log = [helper.make_node("Log", ["x"], ["y"])]
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return {
        "network": network("batch"),
        "network_of_one": network(1),
        "network_softmax": network("batch", ["Softmax"]),
        "whole": model([helper.make_node("Cast", ["x"], ["y"], to=1)], [tensor("x", ["n", 4], TensorProto.INT64)], floats[1]),
        "not_finite": model(log, *floats),
        "turns": turns(),
        "deep_tree": tree(16_383),
        "bad_deep": tree(20_000),
        "bad_way_back": tree(4, back=2),
        "two_outputs": model(two, floats[0], many),
        "softmax_of_parts": model(parts, floats[0], [tensor("y", ["n", 2, 2])], {"shape": numpy.array([-1, 2, 2])}),
        "bad_strings": model(identity, [tensor("x", ["n", 4], TensorProto.STRING)], [tensor("y", ["n", 4], TensorProto.STRING)]),
        "bad_two_inputs": model([helper.make_node("Add", ["x", "w"], ["y"])], [*floats[0], tensor("w", ["n", 4])], floats[1]),
        "bad_batch": model(identity, [tensor("x", [16, 4])], [tensor("y", [16, 4])]),
        "bad_free": model(identity, [tensor("x", ["n", "m"])], [tensor("y", ["n", "m"])]),
        "bad_huge": model(identity, [tensor("x", ["n", 1 << 40, 1 << 40])], floats[1]),
        "bad_rows": model([helper.make_node("Reshape", ["x", "shape"], ["y"])], floats[0], [tensor("y", ["m", 2])], halves),
        "bad_operator": model([helper.make_node("Nothing", ["x"], ["y"], domain="custom")], *floats),
        "bad_external": outside,
        "bad_nested": nested,
        "bad_sequence": model([helper.make_node("SequenceConstruct", ["x"], ["y"])], floats[0], [sequence]),
        "labels": model(identity, [tensor("x", ["n", 1], TensorProto.INT64)], [tensor("y", ["n", 1], TensorProto.INT64)]),
        "fails_later": model(gather, [tensor("x", ["n", 4], TensorProto.INT64)], floats[1], table),
    }


def exact():
    """Models whose answers are others if what they are asked is rounded to a 32-bit float, with rows of their own."""
    times = numpy.arange(1_700_000_000, 1_700_000_600, dtype=numpy.float64).reshape(-1, 1)
    trend = LinearRegression().fit(times, times[:, 0] - times[0, 0])
    ids = [16_777_217, 123_456_789, 123_456_790, -(2**53) - 1, 2**63 - 1, -(2**63)]
    small = [[16_777_217], [-16_777_219], [2**31 - 1], [-(2**31)]]
    bucket = [helper.make_node("Mod", ["x", "eight"], ["bucket"]), helper.make_node("Gather", ["table", "bucket"], ["y"])]
    table = numpy.arange(8, dtype=numpy.float32) / 8

    def buckets(element, count):
        weights = {"eight": numpy.array([8], helper.tensor_dtype_to_np_dtype(element)), "table": table}
        return model(bucket, [tensor("x", ["n", count], element)], [tensor("y", ["n", count])], weights)

    return {
        "exact_double": (to_onnx(trend, times[:1]), times[[0, 1, 50, 100, 599]]),
        "exact_int64": (buckets(TensorProto.INT64, 2), numpy.array(ids, numpy.int64).reshape(-1, 2)),
        "exact_int32": (buckets(TensorProto.INT32, 1), numpy.array(small, numpy.int32)),
    }


def scores(session, rows):
    """Of each row alone, as bits do depend on how many go together."""
    taken = session.get_inputs()[0]
    shape = [1, *taken.shape[1:]]
    types = {"tensor(float)": numpy.float32, "tensor(double)": numpy.float64, "tensor(int64)": numpy.int64, "tensor(int32)": numpy.int32}
    outputs = [output for output in session.get_outputs() if "int64)" not in output.type or "map" in output.type]
    if len(outputs) > 1:
        outputs = outputs[:1]
    found = []
    for row in rows:
        if types[taken.type] is numpy.int64 and row.dtype != numpy.int64:
            row = numpy.round(row)
        (answer,) = session.run([outputs[0].name], {taken.name: row.reshape(shape).astype(types[taken.type])})
        if isinstance(answer, list):
            answer = numpy.array([list(answer[0].values())], dtype=numpy.float32)
        found.append(answer.reshape(-1).astype(numpy.float32).view(numpy.uint32).tolist())
    return found


def main():
    folder = pathlib.Path(sys.argv[1])
    rows, labels = load_iris(return_X_y=True)
    rows = rows.astype(numpy.float32)
    models = of_sklearn(rows, labels) | made_here()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    expected = {}
    for name, exported in models.items():
        data = exported.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(data)
        if not name.startswith(("bad_", "deep_", "fails_", "labels")):
            expected[name] = scores(onnxruntime.InferenceSession(data, options), rows)
    for name, (exported, own) in exact().items():
        data = exported.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(data)
        bits = scores(onnxruntime.InferenceSession(data, options), own)
        expected[name] = {"rows": own.tolist(), "bits": bits}
    for name, exported, own in of_labels(rows, labels):
        (folder / f"{name}.onnx").write_bytes(exported.SerializeToString())
        expected[name] = own
    (folder / "expected.json").write_text(json.dumps(expected))
    header = "a,b,c,d,label"
    # In full, for models that do not round to 32 bits.
    lines = [",".join(repr(float(number)) for number in row) + f",{label}" for row, label in zip(rows, labels)]
    (folder / "rows.csv").write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
