"""What the peers of `host serve` in `cargo xtask bench serving` have in common: the model of a bundle, asked as they all do.

One thread, as the numbers are told per request of one core; where there is a choice, it is the one that favours the peers.
"""

import json
from pathlib import Path

import numpy as np
import xgboost as xgb


class Classifier:
    """The model of a bundle that `host model export` wrote, with what stands before and after it."""

    def __init__(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text())

        def blob(entry: dict) -> bytes:
            return (bundle / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()

        self.booster = xgb.Booster()
        self.booster.load_model(bytearray(blob(manifest["model"]["blob"])))
        # More threads than rows only wait for each other.
        self.booster.set_param({"nthread": 1})
        (pixels,) = manifest["preprocess"]
        # The brightest pixel, which is what `mnist-pixels` learned.
        self.brightest = np.float32(json.loads(blob(pixels["state"])))

    def classify(self, pixels: np.ndarray) -> tuple[int, float]:
        """Gives the label of one image, 784 numbers of FP32 in a row, and how probable it is."""
        features = pixels.reshape(1, 784) / self.brightest
        scores = self.booster.predict(xgb.DMatrix(features, nthread=1))[0]
        label = int(scores.argmax())
        return label, float(scores[label])
