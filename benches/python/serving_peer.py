"""The peer of `host serve` in `cargo xtask bench serving`: the same model and answer by FastAPI and uvicorn.

Usage: serving_peer.py BUNDLE PORT

Serves a bundle that `host model export` wrote until SIGTERM, in one process.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from peer import Classifier


class Image(BaseModel):
    """What is asked: 28 × 28 pixels, row by row."""

    model_config = ConfigDict(extra="forbid")

    pixels: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=784, max_length=784)]


class Answer(BaseModel):
    """What is answered."""

    label: int
    probability: float


def application(classifier: Classifier) -> FastAPI:
    app = FastAPI(openapi_url=None)

    # `async`, so that it runs on the server's thread: the pool that FastAPI has for other functions costs more than
    # this work takes.
    @app.post("/serve/mnist")
    async def classify(image: Image) -> Answer:
        label, probability = classifier.classify(np.array(image.pixels, dtype=np.float32))
        return Answer(label=label, probability=probability)

    return app


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} BUNDLE PORT")
    app = application(Classifier(Path(sys.argv[1])))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
