"""A model behind LitServe: ``python benchmarks/_litserve_server.py MODEL PORT BATCH``, as its documentation shows."""

import sys
from typing import Any

import joblib
import litserve
import numpy as np


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Rows in, labels and scores out."""

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self.answer = joblib.load(sys.argv[1])

    def decode_request(self, request):  # LitServe reads the annotation, and none means JSON
        """Return one request's rows."""
        return np.asarray(request["rows"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Put requests of one size together."""
        return np.stack(inputs)

    def unbatch(self, output: Any) -> Any:
        """Return each request's part."""
        return list(zip(*output, strict=True))

    def predict(self, x: Any) -> Any:
        """Answer rows, or a batch of requests."""
        labels, scores = self.answer(x.reshape(-1, x.shape[-1]))
        return labels.reshape(x.shape[:-1]), scores.reshape(*x.shape[:-1], -1)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return what is sent."""
        labels, scores = output
        return {"labels": labels.tolist(), "scores": scores.tolist()}


if __name__ == "__main__":
    batch = int(sys.argv[3])
    api = Api(max_batch_size=batch) if batch > 1 else Api()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
