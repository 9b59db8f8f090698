"""The peer of `host serve` in `cargo xtask bench serving`: the same model and answer by MLServer.

Usage: mlserver_peer.py BUNDLE HTTP_PORT GRPC_PORT

A runtime of its own, as MLServer's documentation has it where something stands before the model, so that it is asked and
answers what `host` does. Without processes for inference beside the server's (`parallel_workers`), metrics and the log of
requests, each of which only costs here.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.utils import install_uvloop_event_loop
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from peer import Classifier


class Digits(MLModel):
    """Pixels in, label and probability out."""

    async def load(self) -> bool:
        self.classifier = Classifier(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        label, probability = self.classifier.classify(pixels)
        outputs = [
            NumpyCodec.encode_output("label", np.array([label], dtype=np.int64)),
            NumpyCodec.encode_output("probability", np.array([probability], dtype=np.float32)),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def serve(bundle: str, http_port: int, grpc_port: int) -> None:
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        parallel_workers=0,
    )
    model = ModelSettings(name="mnist", implementation=Digits, parameters=ModelParameters(uri=bundle))
    await MLServer(settings).start([model])


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} BUNDLE HTTP_PORT GRPC_PORT")
    bundle, http_port, grpc_port = sys.argv[1:]
    install_uvloop_event_loop()
    asyncio.run(serve(bundle, int(http_port), int(grpc_port)))


if __name__ == "__main__":
    main()
