"""The same answers behind LitServe, with its own batching. Needs litserve (`pip install litserve`)."""

import argparse
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body
from numpy.typing import NDArray

from benchmarks.peers.pipeline import Pipeline


class SecondOpinion(litserve.LitAPI):
    """Decode, predict in batches, list the best classes."""

    def __init__(self, root: Path, threads: int, max_batch: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=batch_timeout, api_path="/v1/predict")
        self.root, self.threads = root, threads

    def setup(self, device: str) -> None:
        """In the inference worker."""
        self.pipeline = Pipeline(self.root, self.threads)

    # A raw body as bytes is the leanest that LitServe takes: a form or base64 in JSON would be parsed first.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/*")]) -> NDArray[np.uint8]:
        """One image's pixels."""
        return self.pipeline.decode(request)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Images to a batch."""
        return np.stack(inputs)

    def predict(self, x: NDArray[np.uint8]) -> list[Any]:
        """Answers of a batch."""
        return list(self.pipeline.answers(x))

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Each for itself."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """What is sent."""
        return self.pipeline.told(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--batch-timeout", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="Of each worker's encoder; 0 = all cores.")
    parser.add_argument("--fast-queue", action="store_true")
    given = parser.parse_args()
    api = SecondOpinion(given.bundles, given.threads, given.max_batch, given.batch_timeout)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=given.workers, fast_queue=given.fast_queue
    )
    server.run(host="127.0.0.1", port=given.port, log_level="warning", generate_client_file=False)
