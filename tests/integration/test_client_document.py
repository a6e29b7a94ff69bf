"""The client's classes and the server's document say the same."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from secondlook.answers import Asked
from secondlook.client import Client, answers
from tests.service_for_tests import create_app, open_predictor, settings

PAIRS = [
    (answers.ClassScore, "ClassScore"),
    (answers.Opinion, "Opinion"),
    (answers.Novelty, "NoveltyScore"),
    (answers.Neighbor, "Neighbor"),
    (answers.NearEntry, "NearEntry"),
    (answers.Nearest, "Nearest"),
    (answers.Embedding, "Embedding"),
    (answers.Decisive, "Decisive"),
    (answers.Votes, "Votes"),
    (answers.Prediction, "Prediction"),
    (answers.TaughtCounts, "TaughtInfo"),
    (answers.Model, "ModelInfo"),
    (answers.Entry, "EntryInfo"),
    (answers.TaughtEntry, "TaughtEntry"),
    (answers.Taught, "Taught"),
    (answers.Change, "ChangeInfo"),
    (answers.Job, "Job"),
    (answers.Generation, "GenerationInfo"),
]
OF_THE_WHOLE_ANSWER = {"generation", "lam", "theta", "k"}
NOT_ASKED_FOR = {"Embedding": {"logits"}}
"""What is in answers to those who ask for it, which the client does not."""


@pytest.fixture(scope="module")
def document(tiny_bundle: Path) -> dict[str, Any]:
    return create_app(settings(), predictor=open_predictor(tiny_bundle)).openapi()


@pytest.mark.parametrize(("kind", "name"), PAIRS, ids=[name for _, name in PAIRS])
def test_each_class_has_the_members_of_its_schema(kind: type, name: str, document: dict[str, Any]) -> None:
    members = {member.name for member in fields(kind)}  # type: ignore[arg-type]
    if kind in (answers.Prediction, answers.Nearest, answers.Embedding):
        members -= OF_THE_WHOLE_ANSWER
    assert members == set(document["components"]["schemas"][name]["properties"]) - NOT_ASKED_FOR.get(name, set())


def test_what_predictions_may_be_asked_for_is_the_query(document: dict[str, Any]) -> None:
    query = {one["name"] for one in document["paths"]["/v1/predict"]["post"]["parameters"] if one["in"] == "query"}
    assert set(Asked.__annotations__) == query
    assert set(inspect.signature(Client.predictions).parameters) == query | {"self", "images", "concurrency"}
