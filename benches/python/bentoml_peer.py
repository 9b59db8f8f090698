"""The peer of `host serve` in `cargo xtask bench serving`: the same model and answer by BentoML.

Usage: HOST_BENCH_BUNDLE=BUNDLE bentoml serve bentoml_peer:Digits --working-dir FOLDER --port PORT

One worker, and without metrics, traces and the log of requests, each of which only costs here.
"""

import os
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from pydantic import BaseModel, Field

from peer import Classifier


class Answer(BaseModel):
    """What is answered."""

    label: int
    probability: float


@bentoml.service(
    name="mnist",
    workers=1,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Digits:
    """Pixels in, label and probability out."""

    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ["HOST_BENCH_BUNDLE"]))

    # `async`, so that it runs on the server's thread: the pool for other functions costs more than this work takes.
    @bentoml.api(route="/serve/mnist")
    async def classify(
        self, pixels: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=784, max_length=784)]
    ) -> Answer:
        label, probability = self.classifier.classify(np.array(pixels, dtype=np.float32))
        return Answer(label=label, probability=probability)
