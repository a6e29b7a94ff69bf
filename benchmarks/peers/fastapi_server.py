"""The same answers behind FastAPI as it is often used: each request is decoded and predicted alone, as it arrives."""

import argparse
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI

from benchmarks.peers.pipeline import Pipeline


def create_app(root: Path) -> FastAPI:
    """An app with one call."""
    pipeline = Pipeline(root)
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(image: Annotated[bytes, Body(media_type="image/*")]) -> dict[str, Any]:
        return pipeline.told(pipeline.answers(pipeline.decode(image)[None])[0])

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(create_app(given.bundles), host="127.0.0.1", port=given.port, log_level="warning")
