"""The peer of `host serve` in `cargo xtask bench serving`: the same model and answer by FastAPI and uvicorn.

Usage: serving_peer.py BUNDLE

Reads a bundle that `host model export` wrote, prints a line with its URL when it is ready, and serves until SIGTERM.
One process, as the numbers are told per request of one core; where there is a choice, it is the one that favours the peer.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import uvicorn
import xgboost as xgb
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field


class Image(BaseModel):
    """What is asked: 28 × 28 pixels, row by row."""

    model_config = ConfigDict(extra="forbid")

    pixels: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=784, max_length=784)]


class Answer(BaseModel):
    """What is answered."""

    label: int
    probability: float


class Server(uvicorn.Server):
    """Says when it is ready, which uvicorn itself only logs."""

    async def startup(self, sockets=None):
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()
        print(f"ready: POST http://{host}:{port}/serve/mnist", flush=True)


def load(bundle: Path) -> tuple[xgb.Booster, np.float32]:
    """Gives the model of a bundle, and the brightest pixel that its transformer `mnist-pixels` learned."""
    manifest = json.loads((bundle / "bundle.json").read_text())

    def blob(entry: dict) -> bytes:
        return (bundle / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()

    booster = xgb.Booster()
    booster.load_model(bytearray(blob(manifest["model"]["blob"])))
    # More threads than rows only wait for each other.
    booster.set_param({"nthread": 1})
    (pixels,) = manifest["preprocess"]
    return booster, np.float32(json.loads(blob(pixels["state"])))


def application(booster: xgb.Booster, brightest: np.float32) -> FastAPI:
    app = FastAPI(openapi_url=None)

    # `async`, so that it runs on the server's thread: the pool that FastAPI has for other functions costs more than
    # this work takes.
    @app.post("/serve/mnist")
    async def classify(image: Image) -> Answer:
        features = np.array([image.pixels], dtype=np.float32) / brightest
        scores = booster.predict(xgb.DMatrix(features, nthread=1))[0]
        label = int(scores.argmax())
        return Answer(label=label, probability=float(scores[label]))

    return app


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} BUNDLE")
    app = application(*load(Path(sys.argv[1])))
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", loop="uvloop", access_log=False, log_level="warning"
    )
    Server(config).run()


if __name__ == "__main__":
    main()
