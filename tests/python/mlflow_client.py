"""Uses a server by MLflow's own client, unmodified; fails where an answer is not what MLflow's server would say.

Usage: MLFLOW_TRACKING_URI=http://... python mlflow_client.py
"""

import math
import os
import tempfile

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

client = MlflowClient()


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, str(error))
        return str(error)
    raise AssertionError(f"{call} was not refused")


def experiments():
    first = client.create_experiment("alpha", tags={"team": "vision"})
    second = client.create_experiment("beta")
    assert client.get_experiment_by_name("alpha").experiment_id == first
    assert client.get_experiment(first).tags == {"team": "vision"}
    assert client.get_experiment(first).artifact_location == f"mlflow-artifacts:/{first}"
    assert client.get_experiment_by_name("none") is None
    refused("RESOURCE_ALREADY_EXISTS", client.create_experiment, "alpha")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_experiment, "4711")
    refused("INVALID_PARAMETER_VALUE", client.create_experiment, "elsewhere", artifact_location="file:///etc")
    names = [found.name for found in client.search_experiments(filter_string="name LIKE 'alp%'")]
    assert names == ["alpha"], names
    names = [found.name for found in client.search_experiments(filter_string="tags.team = 'vision'")]
    assert names == ["alpha"], names
    names = [found.name for found in client.search_experiments(order_by=["name ASC"])]
    assert names == ["Default", "alpha", "beta"], names
    page = client.search_experiments(max_results=2, order_by=["name DESC"])
    assert [found.name for found in page] == ["beta", "alpha"] and page.token
    rest = client.search_experiments(max_results=2, order_by=["name DESC"], page_token=page.token)
    assert [found.name for found in rest] == ["Default"] and not rest.token
    client.rename_experiment(second, "gamma")
    client.set_experiment_tag(second, "k", "v")
    client.delete_experiment(second)
    assert client.get_experiment(second).lifecycle_stage == "deleted"
    assert [found.name for found in client.search_experiments(view_type=ViewType.DELETED_ONLY)] == ["gamma"]
    client.restore_experiment(second)
    assert client.get_experiment(second).tags == {"k": "v"}
    return first


def runs(experiment):
    run = client.create_run(experiment, run_name="first", tags={"team": "vision"})
    run_id = run.info.run_id
    assert run.info.status == "RUNNING" and run.data.tags["mlflow.runName"] == "first"
    for step in range(20):
        client.log_metric(run_id, "loss", 1.0 / (step + 1), step=step)
    client.log_metric(run_id, "loss", 5.0, step=3)
    client.log_batch(
        run_id,
        metrics=[
            Metric("nan", math.nan, 1, 0),
            Metric("inf", math.inf, 1, 0),
            Metric("ninf", -math.inf, 1, 0),
            Metric("tiny", 5e-324, 1, 0),
            Metric("third", 1 / 3, 1, 0),
        ],
        params=[Param("depth", "6"), Param("a/b c", "x" * 6000)],
        tags=[RunTag("note", "ünïcödé ✓")],
    )
    data = client.get_run(run_id).data
    assert data.metrics["loss"] == 1 / 20, data.metrics
    assert math.isnan(data.metrics["nan"]) and data.metrics["inf"] == math.inf and data.metrics["ninf"] == -math.inf
    assert data.metrics["tiny"] == 5e-324 and data.metrics["third"] == 1 / 3
    assert data.params["depth"] == "6" and len(data.params["a/b c"]) == 6000 and data.tags["note"] == "ünïcödé ✓"
    history = client.get_metric_history(run_id, "loss")
    assert len(history) == 21 and [point.step for point in history] == sorted(point.step for point in history)
    assert client.get_metric_history(run_id, "none") == []
    message = refused("INVALID_PARAMETER_VALUE", client.log_param, run_id, "depth", "7")
    assert "Changing param values is not allowed" in message, message
    client.log_param(run_id, "depth", "6")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_run, "0" * 32)
    refused("RESOURCE_DOES_NOT_EXIST", client.log_metric, "0" * 32, "a", 1.0)
    refused("INVALID_PARAMETER_VALUE", client.log_metric, run_id, "../a", 1.0)
    refused("INVALID_PARAMETER_VALUE", client.log_metric, run_id, "x" * 251, 1.0)
    client.set_tag(run_id, "gone", "1")
    client.delete_tag(run_id, "gone")
    refused("RESOURCE_DOES_NOT_EXIST", client.delete_tag, run_id, "gone")
    client.update_run(run_id, name="renamed")
    client.set_terminated(run_id, "FAILED", end_time=123)
    info = client.get_run(run_id).info
    assert (info.run_name, info.status, info.end_time) == ("renamed", "FAILED", 123), info
    client.delete_run(run_id)
    refused("INVALID_PARAMETER_VALUE", client.log_metric, run_id, "a", 1.0)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    client.restore_run(run_id)
    return run_id


def search(experiment):
    for index in range(12):
        run = client.create_run(experiment, run_name=f"s{index}", start_time=1000 + index)
        metrics = [Metric("accuracy", math.nan if index == 7 else index / 10, 1, 0)] if index != 8 else []
        params = [Param("depth", str(index % 3))]
        tags = [RunTag("color", "Red" if index % 2 else "blue"), RunTag("set", "search")]
        client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=tags)

    def found(text, **named):
        text = f"tags.`set` = 'search' AND {text}" if text else "tags.`set` = 'search'"
        return [run.info.run_name for run in client.search_runs([experiment], text, **named)]

    assert found("") == [f"s{index}" for index in reversed(range(12))]
    assert found("metrics.accuracy >= 0.9") == ["s11", "s10", "s9"]
    assert found("metrics.accuracy != 0.0 AND params.depth = '1'") == ["s10", "s7", "s4", "s1"]
    assert found("params.depth LIKE '1%'") == ["s10", "s7", "s4", "s1"]
    assert found("tags.color LIKE 'red'") == [] and len(found("tags.color ILIKE 'red'")) == 6
    assert found("attributes.run_name = 's3'") == ["s3"] and found("start_time < 1002") == ["s1", "s0"]
    assert len(found("params.none IS NULL")) == 12 and found("tags.none IS NOT NULL") == []
    ascending = found("", order_by=["metrics.accuracy ASC"])
    assert ascending == ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s9", "s10", "s11", "s7", "s8"], ascending
    descending = found("", order_by=["metrics.accuracy DESC"])
    assert descending == ["s11", "s10", "s9", "s6", "s5", "s4", "s3", "s2", "s1", "s0", "s7", "s8"], descending
    by_filtered = found("metrics.accuracy < 0.4", order_by=["metrics.accuracy DESC"])
    assert by_filtered == ["s3", "s2", "s1", "s0"], by_filtered
    by_two = found("", order_by=["params.depth DESC", "start_time ASC"])
    assert by_two[:4] == ["s2", "s5", "s8", "s11"], by_two
    pages, token = [], None
    while True:
        page = client.search_runs([experiment], "tags.`set` = 'search'", max_results=5, page_token=token)
        pages.append(len(page))
        token = page.token
        if not token:
            break
    assert pages == [5, 5, 2], pages
    run_id = client.search_runs([experiment], "attributes.run_name = 's3'")[0].info.run_id
    assert found(f"run_id IN ('{run_id}')") == ["s3"] and len(found(f"run_id NOT IN ('{run_id}')")) == 11
    for text in ["metrics.a > 'x'", "bad.a = 'b'", "params.a = 1", "a b", "metrics.a > 1 OR metrics.b > 1", "x = 'y'"]:
        refused("INVALID_PARAMETER_VALUE", client.search_runs, [experiment], text)
    text = "tags.x = '\"; DROP TABLE runs; --'"
    assert client.search_runs([experiment], text) == []


def artifacts(experiment):
    run = client.create_run(experiment)
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a b+c.bin")
        content = bytes(range(256)) * 5000
        with open(path, "wb") as file:
            file.write(content)
        client.log_artifact(run_id, path)
        client.log_artifact(run_id, path, "sub/dir")
        client.log_text(run_id, "ä", "notes/n.txt")
        listed = {(file.path, file.is_dir, file.file_size) for file in client.list_artifacts(run_id)}
        assert listed == {("a b+c.bin", False, 1280000), ("notes", True, None), ("sub", True, None)}, listed
        assert [file.path for file in client.list_artifacts(run_id, "sub/dir")] == ["sub/dir/a b+c.bin"]
        with open(client.download_artifacts(run_id, "sub/dir/a b+c.bin", folder), "rb") as file:
            assert file.read() == content
        assert mlflow.artifacts.load_text(run.info.artifact_uri + "/notes/n.txt") == "ä"
        refused("RESOURCE_DOES_NOT_EXIST", client.list_artifacts, "0" * 32)


def datasets(experiment):
    mlflow.set_experiment(experiment_id=experiment)
    dataset = mlflow.data.from_numpy(np.zeros((3, 2)), name="zeros")
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
        mlflow.log_input(dataset, context="training")
    inputs = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert len(inputs) == 1 and inputs[0].dataset.name == "zeros" and inputs[0].tags[0].value == "training"
    assert len(client.search_runs([experiment], "dataset.name = 'zeros' AND dataset.context = 'training'")) == 1
    assert client.search_runs([experiment], "dataset.name = 'ones'") == []


def sklearn_autolog():
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, labels = load_iris(return_X_y=True)
    mlflow.set_experiment("iris")
    mlflow.sklearn.autolog(silent=True)
    with mlflow.start_run() as run:
        model = LogisticRegression(max_iter=500).fit(features, labels)
    mlflow.sklearn.autolog(disable=True)
    found = client.get_run(run.info.run_id)
    assert found.data.metrics["training_score"] > 0.9 and found.data.params["max_iter"] == "500"
    logged = client.search_logged_models([found.info.experiment_id])
    assert [model.source_run_id for model in logged] == [run.info.run_id]
    assert str(logged[0].status) == "READY" and found.outputs.model_outputs[0].model_id == logged[0].model_id
    filtered = client.search_logged_models(
        [found.info.experiment_id], filter_string="metrics.training_score > 0.9 AND params.max_iter = '500'"
    )
    assert len(filtered) == 1
    for uri in [logged[0].model_uri, f"runs:/{run.info.run_id}/model"]:
        assert (mlflow.sklearn.load_model(uri).predict(features) == model.predict(features)).all()
    client.set_logged_model_tags(logged[0].model_id, {"a": "b"})
    assert client.get_logged_model(logged[0].model_id).tags["a"] == "b"
    client.delete_logged_model_tag(logged[0].model_id, "a")
    client.delete_logged_model(logged[0].model_id)
    assert client.search_logged_models([found.info.experiment_id]) == []


def xgboost_autolog():
    import xgboost

    rows = np.random.default_rng(7).random((200, 4))
    labels = (rows.sum(axis=1) > 2).astype(int)
    mlflow.set_experiment("trees")
    mlflow.xgboost.autolog(silent=True)
    with mlflow.start_run() as run:
        data = xgboost.DMatrix(rows, labels)
        booster = xgboost.train(
            {"objective": "binary:logistic", "nthread": 1}, data, 5, evals=[(data, "train")], verbose_eval=False
        )
    mlflow.xgboost.autolog(disable=True)
    assert len(client.get_metric_history(run.info.run_id, "train-logloss")) == 5
    loaded = mlflow.xgboost.load_model(f"runs:/{run.info.run_id}/model")
    assert (loaded.predict(data) == booster.predict(data)).all()


experiment = experiments()
runs(experiment)
search(experiment)
artifacts(experiment)
datasets(experiment)
sklearn_autolog()
xgboost_autolog()
print("all as MLflow would")
