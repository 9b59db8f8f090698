"""The official client of the Open Inference Protocol over gRPC against `host serve`, used as its documentation shows.

Usage: grpc_client.py ADDRESS FILE

The file has rows of pixels. What is answered to them over REST has to be answered here too, bit for bit.
"""

import asyncio
import json
import queue
import sys
import threading

import grpc
import numpy as np
import tritonclient.grpc as client_library
import tritonclient.grpc.aio as aio
import tritonclient.http as http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

address, path = sys.argv[1:]
with open(path) as file:
    pixels = np.array(json.load(file)["rows"], dtype=np.uint8).reshape(-1, 28, 28)
client = client_library.InferenceServerClient(address)
rest = http.InferenceServerClient(address)
stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))


def by_rest() -> dict[str, np.ndarray]:
    tensor = http.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    result = rest.infer("mnist", [tensor])
    return {name: result.as_numpy(name) for name in ("label", "probability")}


expected = by_rest()


def pixels_input(rows: np.ndarray) -> client_library.InferInput:
    tensor = client_library.InferInput("pixels", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows)
    return tensor


def check(result, count: int) -> None:
    for name, values in expected.items():
        found = result.as_numpy(name)
        assert found.dtype == values.dtype and found.tobytes() == values[:count].tobytes(), f"{name}: every bit as by REST"


def refused(call, status: str, message: str) -> None:
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", (error.status(), error.message())
        assert message in error.message(), error.message()
    else:
        raise AssertionError(f"{message}: nothing was refused")


def check_documents() -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mnist") and client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("none") and not client.is_model_ready("mnist", "7")
    assert "model_repository" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("mnist", as_json=True)
    over_rest = rest.get_model_metadata("mnist")
    for tensor in metadata["inputs"] + metadata["outputs"]:
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    assert metadata == over_rest, (metadata, over_rest)
    config = client.get_model_config("mnist", as_json=True)["config"]
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_UINT8", "dims": ["28", "28"]}], config
    assert config["max_batch_size"] == rest.get_model_config("mnist")["max_batch_size"]
    index = client.get_model_repository_index(as_json=True)["models"]
    assert index == [{"name": "mnist", "version": "1", "state": "READY"}], index


def check_inference() -> None:
    for rows in (1, len(pixels)):
        for packed in (None, "gzip", "deflate"):
            result = client.infer(
                "mnist",
                [pixels_input(pixels[:rows])],
                request_id="r-1",
                compression_algorithm=packed,
                priority=3,
                sequence_id=4,
                timeout=100,
                client_timeout=60,
                parameters={"mine": 1, "other": "x", "third": True},
            )
            check(result, rows)
            response = result.get_response()
            assert (response.id, response.model_name, response.model_version) == ("r-1", "mnist", "1"), response
    names = ["probability", "label"]
    outputs = [client_library.InferRequestedOutput(name) for name in names]
    response = client.infer("mnist", [pixels_input(pixels)], outputs=outputs, model_version="1").get_response()
    assert [output.name for output in response.outputs] == names
    classes = [client_library.InferRequestedOutput("probability", class_count=1)]
    value, index = client.infer("mnist", [pixels_input(pixels[:1])], outputs=classes).as_numpy("probability")[0][0].split(b":")
    assert index == b"0" and abs(float(value) - expected["probability"][0]) < 1e-5
    answers = queue.Queue()
    for _ in range(20):
        client.async_infer("mnist", [pixels_input(pixels)], callback=lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=60)
        assert error is None, error
        check(result, len(pixels))


def typed_request(rows: np.ndarray) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="mnist")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=rows.shape)
    tensor.contents.uint_contents.extend(rows.flatten().tolist())
    return request


def check_typed_contents_and_metadata() -> None:
    response, call = stub.ModelInfer.with_call(typed_request(pixels))
    check(client_library.InferResult(response), len(pixels))
    metadata = dict(call.initial_metadata())
    for name in ("x-prediction-id", "x-model-version", "x-bundle-digest"):
        assert response.parameters[name].string_param == metadata[name], (name, response.parameters, metadata)
    assert metadata["x-model-version"] == "mnist@1"
    wrong = typed_request(pixels[:1])
    wrong.inputs[0].contents.uint_contents[3] = 256
    try:
        stub.ModelInfer(wrong)
        raise AssertionError("256 is no UINT8")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "row 0, column `pixels`: expected UINT8, found 256", error.details()


def check_refusals() -> None:
    one = pixels_input(pixels[:1])
    refused(lambda: client.infer("none", [one]), "NOT_FOUND", "there is no endpoint `none`")
    refused(lambda: client.infer("mnist", [one], model_version="7"), "NOT_FOUND", "has no version `7`")
    refused(lambda: client.infer("mnist", [one, one]), "INVALID_ARGUMENT", "`pixels`")
    refused(lambda: client.infer("mnist", [pixels_input(pixels[:1, :27])]), "INVALID_ARGUMENT", "27 × 28")
    refused(lambda: client.infer("mnist", [pixels_input(pixels[:0])]), "INVALID_ARGUMENT", "at least one row")
    wrong = client_library.InferInput("pixels", [1, 28, 28], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 28, 28), dtype=np.float32))
    refused(lambda: client.infer("mnist", [wrong]), "INVALID_ARGUMENT", "expected UINT8, found FP32")
    outputs = [client_library.InferRequestedOutput("nothing")]
    refused(lambda: client.infer("mnist", [one], outputs=outputs), "INVALID_ARGUMENT", "output `nothing` is unknown")
    shared = client_library.InferInput("pixels", [1, 28, 28], "UINT8")
    shared.set_shared_memory("region", 784)
    refused(lambda: client.infer("mnist", [shared]), "INVALID_ARGUMENT", "shared_memory")
    refused(client.get_system_shared_memory_status, "UNIMPLEMENTED", "shared memory is not supported")
    refused(client.get_trace_settings, "UNIMPLEMENTED", "tracing is not supported")
    refused(client.get_log_settings, "UNIMPLEMENTED", "log settings is not supported")
    refused(lambda: client.get_model_metadata("none"), "NOT_FOUND", "there is no endpoint `none`")
    page = {"origin": "http://evil.example"}
    refused(
        lambda: client.infer("mnist", [pixels_input(pixels[:1])], headers=page),
        "PERMISSION_DENIED",
        "pages of `http://evil.example` may not change anything here",
    )
    many = pixels_input(np.zeros((1_300, 28, 28), dtype=np.uint8))
    refused(lambda: client.infer("mnist", [many]), "RESOURCE_EXHAUSTED", "larger than the limit of 1000000 bytes")
    refused(lambda: client.infer("mnist", [many], compression_algorithm="gzip"), "RESOURCE_EXHAUSTED", "1000000 bytes")


def check_statistics() -> None:
    before = client.get_inference_statistics("mnist").model_stats[0]
    client.infer("mnist", [pixels_input(pixels[:3])])
    after = client.get_inference_statistics("mnist", "1").model_stats[0]
    assert after.inference_count == before.inference_count + 3
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count > 0
    assert client.get_inference_statistics().model_stats[0].name == "mnist"


def check_repository() -> None:
    refused(lambda: client.load_model("mnist", config="{}"), "UNIMPLEMENTED", "not supported")
    refused(lambda: client.load_model("none"), "INVALID_ARGUMENT", "there is no model `none`")
    client.unload_model("mnist")
    assert not client.is_model_ready("mnist")
    index = client.get_model_repository_index(as_json=True)["models"]
    assert index == [{"name": "mnist", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}], index
    only_ready = service_pb2.RepositoryIndexRequest(ready=True)
    assert len(stub.RepositoryIndex(only_ready).models) == 0
    refused(lambda: client.infer("mnist", [pixels_input(pixels)]), "NOT_FOUND", "there is no endpoint `mnist`")
    assert health("") == 2
    client.load_model("mnist")
    check(client.infer("mnist", [pixels_input(pixels)]), len(pixels))
    assert [entry.state for entry in stub.RepositoryIndex(only_ready).models] == ["READY"]


def health(service: str) -> int:
    """The status, whose message is one number; its library is one more package."""
    call = grpc.insecure_channel(address).unary_unary("/grpc.health.v1.Health/Check")
    return call(b"\x0a" + bytes([len(service)]) + service.encode() if service else b"")[1]


def check_health() -> None:
    assert health("") == 1 and health("inference.GRPCInferenceService") == 1
    try:
        health("other")
        raise AssertionError("there is no such service")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error


def check_stream() -> None:
    answers = queue.Queue()
    streaming = client_library.InferenceServerClient(address)
    streaming.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(50):
        model = "mnist" if index % 10 != 3 else "none"
        streaming.async_stream_infer(model, [pixels_input(pixels)], request_id=str(index), enable_empty_final_response=True)
    for index in range(50):
        result, error = answers.get(timeout=60)
        if index % 10 == 3:
            assert "there is no endpoint `none`" in error.message(), (index, result, error)
        else:
            response = result.get_response()
            assert response.id == str(index), index
            assert response.parameters["triton_final_response"].bool_param, "there is no other answer to wait for"
            check(result, len(pixels))
    streaming.stop_stream()


async def check_asyncio() -> None:
    async with aio.InferenceServerClient(address) as asynchronous:
        assert await asynchronous.is_server_live()
        results = await asyncio.gather(*[asynchronous.infer("mnist", [pixels_input(pixels)]) for _ in range(200)])
        for result in results:
            check(result, len(pixels))


def check_many_threads() -> None:
    """More calls at once on one connection than it has streams."""
    failures = []

    def ask() -> None:
        try:
            for _ in range(5):
                check(client.infer("mnist", [pixels_input(pixels)]), len(pixels))
        except Exception as error:  # noqa: BLE001: told by the assertion
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(160)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


check_documents()
check_inference()
check_typed_contents_and_metadata()
check_refusals()
check_statistics()
check_repository()
check_health()
check_stream()
asyncio.run(check_asyncio())
check_many_threads()
print("all as documented")
