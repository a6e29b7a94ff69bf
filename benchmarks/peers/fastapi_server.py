"""The same answers behind FastAPI as it is often used: each request is decoded and predicted alone, as it arrives."""

import argparse
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI

from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode

TOP = 5


def create_app(root: Path) -> FastAPI:
    """An app with one call."""
    predictor = Predictor(open_bundle(root))
    geometry, classes = predictor.bundle.geometry, predictor.bundle.manifest.classes
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(image: Annotated[bytes, Body(media_type="image/png")]) -> dict[str, Any]:
        answer: Any = predictor.predict(decode(image, geometry, Limits(DEFAULT_PIXELS))[None], [predictor.defaults])[0]
        top = [{"label": classes[i], "probability": float(answer.mixed[i])} for i in (-answer.mixed).argsort()[:TOP]]
        return {"predictions": [{**top[0], "top": top}]}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(create_app(given.bundles), host="127.0.0.1", port=given.port, log_level="warning")
