"""Uses a server by MLflow's own client, unmodified; fails where an answer is not what MLflow's server would say.

Usage: MLFLOW_TRACKING_URI=http://... python mlflow_client.py
"""

import json
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


def artifacts_in_parts(experiment):
    run = client.create_run(experiment)
    run_id = run.info.run_id
    os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] = "true"
    os.environ["MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"] = "1000"
    os.environ["MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"] = "100000"
    with tempfile.TemporaryDirectory() as folder:
        content = bytes(range(256)) * 5001
        for name, size in [("a b+c.bin", len(content)), ("exact.bin", 200_000), ("small.bin", 10)]:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content[:size])
        client.log_artifacts(run_id, folder, "sub/dir")
        client.log_artifact(run_id, os.path.join(folder, "exact.bin"))
        found = {file.path: file.file_size for file in client.list_artifacts(run_id, "sub/dir")}
        assert found == {"sub/dir/a b+c.bin": len(content), "sub/dir/exact.bin": 200_000, "sub/dir/small.bin": 10}, found
    with tempfile.TemporaryDirectory() as folder:
        with open(client.download_artifacts(run_id, "sub/dir/a b+c.bin", folder), "rb") as file:
            assert file.read() == content
        with open(client.download_artifacts(run_id, "exact.bin", folder), "rb") as file:
            assert file.read() == content[:200_000]
    for name in ["ENABLE_PROXY_MULTIPART_UPLOAD", "MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "MULTIPART_UPLOAD_CHUNK_SIZE"]:
        del os.environ[f"MLFLOW_{name}"]


def other_files(experiment):
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run() as run:
        mlflow.log_dict({"a": [1, None, "ä"]}, "config/a.json")
        mlflow.log_dict({"a": 1}, "config/a.yaml")
        mlflow.log_table({"x": [1, 2], "y": ["a", "b"]}, "table.json")
        mlflow.log_table({"x": [3], "y": ["c"]}, "table.json")
    run_id = run.info.run_id
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/config/a.json") == {"a": [1, None, "ä"]}
    assert list(mlflow.load_table("table.json", run_ids=[run_id])["x"]) == [1, 2, 3]
    assert "mlflow.loggedArtifacts" in client.get_run(run_id).data.tags
    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=folder)
        assert sorted(os.listdir(folder)) == ["config", "table.json"]
    artifacts = client._tracking_client._get_artifact_repo(run_id)
    artifacts.delete_artifacts("config")
    assert [file.path for file in client.list_artifacts(run_id)] == ["table.json"]


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


def logged_linear_model(registered=None):
    """A run with a small model of scikit-learn: its id, what logging the model told, the model and rows for it."""
    from sklearn.linear_model import LinearRegression

    rows = np.arange(8.0).reshape(4, 2)
    model = LinearRegression().fit(rows, rows.sum(axis=1))
    mlflow.set_experiment("registry")
    with mlflow.start_run() as run:
        told = mlflow.sklearn.log_model(
            model, name="linear", registered_model_name=registered, serialization_format="cloudpickle"
        )
    return run.info.run_id, told, model, rows


def registered_models():
    created = client.create_registered_model("My Model ✓", tags={"team": "vision"}, description="first")
    assert (created.name, created.description, created.tags) == ("My Model ✓", "first", {"team": "vision"})
    assert created.creation_timestamp == created.last_updated_timestamp > 0 and created.latest_versions == []
    message = refused("RESOURCE_ALREADY_EXISTS", client.create_registered_model, "My Model ✓")
    assert "Registered Model (name=My Model ✓) already exists" in message, message
    for name in ["a/b", "a:b", " ", "..", "x" * 257]:
        refused("INVALID_PARAMETER_VALUE", client.create_registered_model, name)
    refused("INVALID_PARAMETER_VALUE", client.create_registered_model, "long", description="x" * 100_001)
    refused("RESOURCE_DOES_NOT_EXIST", client.get_registered_model, "none")
    client.create_registered_model("other")
    client.rename_registered_model("My Model ✓", "renamed")
    assert client.get_registered_model("renamed").tags == {"team": "vision"}
    refused("RESOURCE_DOES_NOT_EXIST", client.get_registered_model, "My Model ✓")
    refused("RESOURCE_ALREADY_EXISTS", client.rename_registered_model, "renamed", "other")
    assert client.update_registered_model("renamed", "second").description == "second"
    client.set_registered_model_tag("renamed", "stage", "é" * 100_000)
    client.set_registered_model_tag("renamed", "stage", "new")
    client.delete_registered_model_tag("renamed", "team")
    client.delete_registered_model_tag("renamed", "never there")
    assert client.get_registered_model("renamed").tags == {"stage": "new"}
    refused("INVALID_PARAMETER_VALUE", client.set_registered_model_tag, "renamed", "a", "x" * 100_001)
    refused("INVALID_PARAMETER_VALUE", client.set_registered_model_tag, "renamed", "../a", "x")
    refused("RESOURCE_DOES_NOT_EXIST", client.set_registered_model_tag, "none", "a", "x")
    for index in range(7):
        client.create_registered_model(f"s{index}", tags={"set": "search", "even": str(index % 2 == 0)})

    def found(text=None, **named):
        return [model.name for model in client.search_registered_models(text, **named)]

    assert found("name LIKE 's%'") == [f"s{index}" for index in range(7)]
    assert found("name ILIKE 'S1'") == ["s1"] and found("name LIKE 'S1'") == []
    assert found("name = 's2'") == ["s2"] and "s2" not in found("name != 's2'")
    assert found("name IN ('s5', 's2')") == ["s2", "s5"]
    assert found("tags.even = 'True' AND tags.`set` LIKE 'sea%'", order_by=["name DESC"]) == ["s6", "s4", "s2", "s0"]
    client.update_registered_model("s3", "touched")
    assert found("name LIKE 's%'", order_by=["last_updated_timestamp DESC"])[0] == "s3"
    first = client.search_registered_models("name LIKE 's%'", max_results=4)
    rest = client.search_registered_models("name LIKE 's%'", max_results=4, page_token=first.token)
    assert [model.name for model in first + rest] == [f"s{index}" for index in range(7)] and not rest.token
    for text in ["name > 'a'", "size = 'a'", "metrics.a > 1", "name = 1", "tags.a IN ('b')"]:
        refused("INVALID_PARAMETER_VALUE", client.search_registered_models, text)
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, order_by=["tags.a"])
    refused("INVALID_PARAMETER_VALUE", client.search_registered_models, max_results=1001)
    for name in ["renamed", "other"] + [f"s{index}" for index in range(7)]:
        client.delete_registered_model(name)
    assert client.search_registered_models() == []
    refused("RESOURCE_DOES_NOT_EXIST", client.delete_registered_model, "renamed")


def model_versions():
    run_id, told, _, _ = logged_linear_model()
    client.create_registered_model("versions")
    by_run = client.create_model_version("versions", f"runs:/{run_id}/linear", run_id, description="by run")
    assert (by_run.version, by_run.run_id, by_run.status, by_run.current_stage) == ("1", run_id, "READY", "None")
    assert by_run.source == f"runs:/{run_id}/linear" and by_run.description == "by run"
    by_model = client.create_model_version("versions", told.model_uri, model_id=told.model_id, tags={"a": "1"})
    assert (by_model.version, by_model.run_id, by_model.tags) == ("2", run_id, {"a": "1"})
    location = client.get_logged_model(told.model_id).artifact_location
    by_place = client.create_model_version("versions", location, model_id=told.model_id)
    assert by_place.version == "3" and by_place.source == location
    assert client.get_model_version_download_uri("versions", "2") == location
    with tempfile.TemporaryDirectory() as folder:
        for version in ["1", "2", "3"]:
            uri = client.get_model_version_download_uri("versions", version)
            files = os.listdir(mlflow.artifacts.download_artifacts(uri, dst_path=os.path.join(folder, version)))
            assert "MLmodel" in files, (version, uri, files)
    noted = client.get_logged_model(told.model_id).tags["mlflow.modelVersions"]
    assert '"version":3' in noted.replace(" ", ""), noted
    artifacts = client.get_run(run_id).info.artifact_uri
    for source, named in [
        ("file:///etc/passwd", {}),
        ("/etc/passwd", {}),
        ("s3://bucket/model", {}),
        ("http://127.0.0.1/model", {}),
        (f"runs:/{'0' * 32}/model", {}),
        (f"runs:/{run_id}/../../etc", {}),
        (f"runs:/{run_id}/%2e%2e/etc", {}),
        (f"runs:/{run_id}/model", {"run_id": "0" * 32}),
        ("models:/m-none", {}),
        ("models:/versions@none", {}),
        (told.model_uri, {"model_id": "m-other"}),
        ("mlflow-artifacts:/../etc", {}),
        ("mlflow-artifacts:/0/%252e%252e/etc", {}),
        ("mlflow-artifacts:/0/other/artifacts", {"run_id": run_id}),
        (artifacts + "x", {"run_id": run_id}),
    ]:
        refused("INVALID_PARAMETER_VALUE", client._create_model_version, "versions", source, **named)
    refused("RESOURCE_DOES_NOT_EXIST", client.create_model_version, "none", artifacts, run_id)
    refused("RESOURCE_DOES_NOT_EXIST", client.create_model_version, "versions", "models:/versions/99")
    copied = client.copy_model_version("models:/versions/2", "copy")
    assert (copied.name, copied.version, copied.source) == ("copy", "1", "models:/versions/2")
    assert client.get_model_version_download_uri("copy", "1") == location
    client.delete_registered_model("copy")
    client.update_model_version("versions", "1", "described")
    client.set_model_version_tag("versions", "1", "color", "red")
    client.set_model_version_tag("versions", "1", "gone", "x")
    client.delete_model_version_tag("versions", "1", "gone")
    first = client.get_model_version("versions", "1")
    assert first.description == "described" and first.tags == {"color": "red"}
    refused("RESOURCE_DOES_NOT_EXIST", client.get_model_version, "versions", "99")
    refused("INVALID_PARAMETER_VALUE", client.get_model_version, "versions", "one")
    refused("RESOURCE_DOES_NOT_EXIST", client.set_model_version_tag, "versions", "99", "a", "b")

    def found(text, **named):
        return [version.version for version in client.search_model_versions(text, **named)]

    by_number = ["version_number ASC"]
    assert found("name = 'versions'", order_by=by_number) == ["1", "2", "3"]
    assert found("name = 'versions'")[0] == "1"  # It changed last.
    assert found(f"run_id = '{run_id}'", order_by=["version_number DESC"]) == ["3", "2", "1"]
    assert found(f"run_id IN ('{run_id}', 'x') AND version_number > 1", order_by=by_number) == ["2", "3"]
    assert found(f"source_path = '{told.model_uri}'") == ["2"]
    assert found("tags.color ILIKE 'RED'") == ["1"] and found("tags.color != 'red'") == []
    page = client.search_model_versions("name = 'versions'", max_results=2, order_by=by_number)
    rest = client.search_model_versions("name = 'versions'", max_results=2, order_by=by_number, page_token=page.token)
    assert [version.version for version in page + rest] == ["1", "2", "3"] and not rest.token
    for text in ["stage = 'x'", "version_number LIKE '1'", "params.a = 'b'"]:
        refused("INVALID_PARAMETER_VALUE", client.search_model_versions, text)
    client.delete_model_version("versions", "3")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_model_version, "versions", "3")
    again = client.create_model_version("versions", f"runs:/{run_id}/linear", run_id)
    assert again.version == "4", "a number is not used twice"
    client.rename_registered_model("versions", "renamed versions")
    assert len(client.search_model_versions("name = 'renamed versions'")) == 3 and found("name = 'versions'") == []
    client.delete_registered_model("renamed versions")
    assert client.search_model_versions() == []


def aliases_and_stages():
    _, told, _, _ = logged_linear_model()
    client.create_registered_model("staged")
    for _ in range(3):
        client.create_model_version("staged", told.model_uri, model_id=told.model_id)
    client.set_registered_model_alias("staged", "champion", "1")
    client.set_registered_model_alias("staged", "challenger", "2")
    client.set_registered_model_alias("staged", "champion", "2")
    assert client.get_registered_model("staged").aliases == {"champion": "2", "challenger": "2"}
    assert client.get_model_version_by_alias("staged", "champion").version == "2"
    assert sorted(client.get_model_version("staged", "2").aliases) == ["challenger", "champion"]
    assert client.get_model_version_by_alias("staged", "latest").version == "3"
    client.delete_registered_model_alias("staged", "challenger")
    client.delete_registered_model_alias("staged", "challenger")
    message = refused("INVALID_PARAMETER_VALUE", client.get_model_version_by_alias, "staged", "challenger")
    assert "Registered model alias challenger not found" in message, message
    for alias in ["latest", "Latest", "v1", "a b", "a/b", "x" * 256]:
        refused("INVALID_PARAMETER_VALUE", client.set_registered_model_alias, "staged", alias, "1")
    refused("RESOURCE_DOES_NOT_EXIST", client.set_registered_model_alias, "staged", "a", "99")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_model_version_by_alias, "none", "a")
    assert client.transition_model_version_stage("staged", "1", "production").current_stage == "Production"
    client.transition_model_version_stage("staged", "3", "Staging")
    latest = {version.current_stage: version.version for version in client.get_latest_versions("staged")}
    assert latest == {"None": "2", "Production": "1", "Staging": "3"}, latest
    client.transition_model_version_stage("staged", "3", "Production", archive_existing_versions=True)
    assert client.get_model_version("staged", "1").current_stage == "Archived"
    assert [version.version for version in client.get_latest_versions("staged", ["Production"])] == ["3"]
    refused("INVALID_PARAMETER_VALUE", client.transition_model_version_stage, "staged", "1", "Somewhere")
    refused("INVALID_PARAMETER_VALUE", client.transition_model_version_stage, "staged", "1", "None", True)
    client.delete_model_version("staged", "2")
    assert client.get_registered_model("staged").aliases == {}
    client.delete_registered_model("staged")


def models_by_name():
    run_id, told, model, rows = logged_linear_model("linear")
    assert int(told.registered_model_version) == 1
    client.set_registered_model_alias("linear", "champion", "1")
    second = mlflow.register_model(f"runs:/{run_id}/linear", "linear", tags={"way": "run"})
    assert second.version == "2" and second.tags == {"way": "run"} and second.run_id == run_id
    third = mlflow.register_model(told.model_uri, "linear")
    assert third.version == "3" and third.source == told.model_uri
    for uri in ["models:/linear/1", "models:/linear/2", "models:/linear@champion", "models:/linear/latest"]:
        assert np.allclose(mlflow.sklearn.load_model(uri).predict(rows), model.predict(rows)), uri
    assert np.allclose(mlflow.pyfunc.load_model("models:/linear@champion").predict(rows), model.predict(rows))
    client.delete_registered_model("linear")


def prompts():
    prompt = mlflow.genai.register_prompt("greet", "Say {{word}}", tags={"lang": "en"})
    assert prompt.version == 1 and mlflow.genai.load_prompt("greet", version=1).format(word="hi") == "Say hi"
    mlflow.genai.set_prompt_alias("greet", "best", 1)
    assert mlflow.genai.load_prompt("prompts:/greet@best").template == "Say {{word}}"
    assert client.search_registered_models() == [] and client.search_model_versions() == []
    assert [found.name for found in mlflow.genai.search_prompts()] == ["greet"]
    client.create_registered_model("no prompt")
    refused("INVALID_PARAMETER_VALUE", client.create_model_version, "no prompt", "models:/greet/1")
    client.delete_registered_model("no prompt")
    client.delete_prompt_version("greet", "1")
    client.delete_prompt("greet")
    assert list(mlflow.genai.search_prompts()) == []


def models_of_old_clients(experiment):
    run_id = client.create_run(experiment).info.run_id
    for path in ["one", "two"]:
        model = mlflow.models.Model(artifact_path=path, run_id=run_id, flavors={"f": {"config": 1}})
        client._record_logged_model(run_id, model)
    history = json.loads(client.get_run(run_id).data.tags["mlflow.log-model.history"])
    assert [model["artifact_path"] for model in history] == ["one", "two"] and history[0]["flavors"] == {"f": {}}


experiment = experiments()
runs(experiment)
search(experiment)
artifacts(experiment)
artifacts_in_parts(experiment)
other_files(experiment)
datasets(experiment)
sklearn_autolog()
xgboost_autolog()
registered_models()
model_versions()
aliases_and_stages()
models_by_name()
prompts()
models_of_old_clients(experiment)
print("all as MLflow would")
