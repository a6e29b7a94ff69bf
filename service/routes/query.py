"""What the query of a prediction asks for: each parameter is read and checked here, once."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema

from secondlook.model.answering.doubt import COVERAGES
from secondlook.model.answering.predictor import MAX_NEIGHBORS, Overrides
from secondlook.model.answering.told import MAX_TOP, MAX_VOTES, Asked
from secondlook.model.answering.wanted import MAX_SEARCHED, SEARCHED
from secondlook.model.cache import MAX_THETA
from secondlook.service.problems import of_validation


def _parse_k(given: object) -> object:
    if given == "all" or (isinstance(given, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", given)):
        return given
    raise ValueError("give a whole number of at least 1, or all")


K = Annotated[
    int | Literal["all"],
    BeforeValidator(_parse_k),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 10**18 - 1}, {"const": "all"}]}),
]


AnyQuery = TypeVar("AnyQuery", bound=BaseModel)


class PredictQuery(BaseModel):
    """What a prediction's query asks for."""

    top: int = Field(5, ge=1, le=MAX_TOP, description="Classes listed.")
    neighbors: int = Field(0, ge=0, le=MAX_NEIGHBORS, description="Nearest entries listed.")
    lam: float | None = Field(
        None,
        description="Weight of the cache, instead of the model's own.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    theta: float | None = Field(
        None,
        description="Sharpness of the vote, instead of the model's own.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": MAX_THETA},
    )
    k: K | None = Field(None, description="How many entries vote, or all, instead of the model's own.")
    votes: int = Field(
        0,
        ge=0,
        le=MAX_VOTES,
        description="Nearest entries told by class and similarity alone, for other theta, lam and k.",
    )
    coverage: float | None = Field(
        None,
        description="How often a set of labels is to hold the right one: each answer has such a set.",
        json_schema_extra={"minimum": COVERAGES[0], "maximum": COVERAGES[1]},
    )
    abstain: bool = Field(False, description="Say of each image whether to answer 'unknown' instead.")

    @cached_property
    def asked(self) -> Asked:
        """The same, in the model's words.

        Raises:
            ParameterError: theta, lam, k or coverage is out of its range.
        """
        overrides = Overrides(self.theta, self.lam, self.k)
        return Asked(self.top, self.neighbors, self.votes, self.coverage, self.abstain, overrides)


class SearchQuery(BaseModel):
    """What a search's query asks for."""

    k: int = Field(SEARCHED, ge=1, le=MAX_SEARCHED, description="How many of the nearest entries.")


class EmbedQuery(BaseModel):
    """What an embedding's query asks for."""

    logits: bool = Field(False, description="Give the network's logits with each key, as `/v1/suggest` wants them.")


def read_query(request: Request, kind: type[AnyQuery]) -> AnyQuery:
    """Read the query of a call that takes images.

    Raises:
        ProblemError: it has a parameter that there is not, or one twice, or a value of the wrong type.
        ParameterError: theta, lam, k or coverage is out of its range.
    """
    given = request.app.state.known_parameters.check_query(request.scope)
    try:
        query = kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise of_validation({**first, "loc": ("query", *first["loc"])}) from error
    # In the model's own words, not pydantic's: the command says the same.
    if isinstance(query, PredictQuery):
        _ = query.asked
    return query
