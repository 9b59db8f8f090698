"""The official client of the Open Inference Protocol against `host serve`, used as its documentation shows.

Usage: inference_client.py ADDRESS FILE

The file has rows of pixels and the answers that `POST /serve/mnist` gives to them.
"""

import asyncio
import itertools
import json
import sys

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

address, path = sys.argv[1:]
with open(path) as file:
    case = json.load(file)
pixels = np.array(case["rows"], dtype=np.uint8).reshape(-1, 28, 28)
labels = np.array([answer["label"] for answer in case["answers"]])
probabilities = np.array([answer["probability"] for answer in case["answers"]], dtype=np.float32)
client = http.InferenceServerClient(address)


def pixels_input(rows: np.ndarray, binary: bool = True) -> http.InferInput:
    tensor = http.InferInput("pixels", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def check(result, count: int) -> None:
    assert (result.as_numpy("label") == labels[:count]).all()
    assert (result.as_numpy("probability") == probabilities[:count]).all(), "every bit as by JSON"


def refused(call, status: str, message: str) -> None:
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == status, (error.status(), error.message())
        assert message in error.message(), error.message()
    else:
        raise AssertionError(f"{message}: nothing was refused")


def check_documents() -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mnist") and client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("none") and not client.is_model_ready("mnist", "7")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("mnist")
    assert metadata["versions"] == ["1"] and metadata["platform"] == "xgboost_ubj", metadata
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probability"]
    config = client.get_model_config("mnist")
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_UINT8", "dims": [28, 28]}], config
    assert client.get_model_repository_index() == [{"name": "mnist", "version": "1", "state": "READY", "reason": ""}]


def check_inference() -> None:
    forms = [None, True, False]
    for rows, binary, form, packed in itertools.product([1, len(pixels)], [True, False], forms, [None, "gzip", "deflate"]):
        names = ["probability", "label"]
        outputs = None if form is None else [http.InferRequestedOutput(name, binary_data=form) for name in names]
        result = client.infer(
            "mnist",
            [pixels_input(pixels[:rows], binary)],
            outputs=outputs,
            request_id="r-1",
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
            parameters={"mine": 3},
        )
        check(result, rows)
        response = result.get_response()
        assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "mnist", "1"), response
        if outputs:
            assert [output["name"] for output in response["outputs"]] == names
    only = client.infer("mnist", [pixels_input(pixels)], outputs=[http.InferRequestedOutput("label")], model_version="1")
    assert len(only.get_response()["outputs"]) == 1
    check(client.async_infer("mnist", [pixels_input(pixels)]).get_result(), len(pixels))
    classes = [http.InferRequestedOutput("probability", class_count=1)]
    value, index = client.infer("mnist", [pixels_input(pixels[:1])], outputs=classes).as_numpy("probability")[0][0].split(b":")
    assert index == b"0" and abs(float(value) - probabilities[0]) < 1e-5


def check_raw_request() -> None:
    """One row as bytes and nothing else, which the client has no call for."""

    def ask(body: bytes):
        return client._post("v2/models/mnist/infer", body, {"Inference-Header-Content-Length": "0"}, None)

    for row, label in zip(pixels, labels):
        response = ask(row.tobytes())
        assert response.status_code == 200, response.read()
        result = http.InferResult(response, False)
        assert (result.as_numpy("label") == label).all()
    refused = ask(pixels[0].tobytes()[1:])
    assert refused.status_code == 400 and b"expected 784 bytes, found 783" in refused.read()


def check_refusals() -> None:
    one = pixels_input(pixels[:1])
    refused(lambda: client.infer("none", [one]), "404", "there is no endpoint `none`")
    refused(lambda: client.infer("mnist", [one], model_version="7"), "404", "has no version `7`")
    refused(lambda: client.infer("mnist", [one, one]), "400", "`pixels`")
    refused(lambda: client.infer("mnist", [pixels_input(pixels[:1, :27])]), "400", "`pixels`")
    refused(lambda: client.infer("mnist", [pixels_input(pixels[:0])]), "400", "at least one row")
    wrong = http.InferInput("pixels", [1, 28, 28], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 28, 28), dtype=np.float32))
    refused(lambda: client.infer("mnist", [wrong]), "400", "expected UINT8, found FP32")
    other = http.InferInput("other", [1, 28, 28], "UINT8")
    other.set_data_from_numpy(pixels[:1])
    refused(lambda: client.infer("mnist", [other]), "400", "`other`")
    outputs = [http.InferRequestedOutput("nothing")]
    refused(lambda: client.infer("mnist", [one], outputs=outputs), "400", "output `nothing` is unknown")
    shared = http.InferInput("pixels", [1, 28, 28], "UINT8")
    shared.set_shared_memory("region", 784)
    refused(lambda: client.infer("mnist", [shared]), "400", "shared_memory")
    refused(lambda: client.get_system_shared_memory_status(), "501", "not supported")
    refused(lambda: client.get_trace_settings(), "501", "not supported")
    refused(lambda: client.get_model_metadata("none"), "404", "there is no endpoint `none`")


def check_statistics() -> None:
    before = client.get_inference_statistics("mnist")["model_stats"][0]
    client.infer("mnist", [pixels_input(pixels[:3])])
    after = client.get_inference_statistics("mnist", "1")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["fail"]["count"] > 0
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "mnist"


def check_repository() -> None:
    refused(lambda: client.load_model("mnist", config="{}"), "501", "not supported")
    refused(lambda: client.load_model("none"), "400", "there is no model `none`")
    client.unload_model("mnist")
    assert not client.is_model_ready("mnist")
    assert client.get_model_repository_index() == [
        {"name": "mnist", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    refused(lambda: client.infer("mnist", [pixels_input(pixels)]), "404", "there is no endpoint `mnist`")
    client.load_model("mnist")
    check(client.infer("mnist", [pixels_input(pixels)]), len(pixels))
    assert [entry["state"] for entry in client.get_model_repository_index()] == ["READY"]


async def check_asyncio() -> None:
    async with aio.InferenceServerClient(address) as asynchronous:
        assert await asynchronous.is_server_live()
        results = await asyncio.gather(*[asynchronous.infer("mnist", [pixels_input(pixels)]) for _ in range(8)])
        for result in results:
            check(result, len(pixels))


check_documents()
check_inference()
check_raw_request()
check_refusals()
check_statistics()
check_repository()
asyncio.run(check_asyncio())
print("all as documented")
