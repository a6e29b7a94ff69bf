"""Errors reach other processes as they are: a pool whose worker cannot give back its error says nothing of it."""

import inspect
import pickle

import pytest

from secondlook.model import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SecondlookError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_in_another_process(kind: type[errors.SecondlookError]) -> None:
    has_own = kind.__init__ is not Exception.__init__
    parameters = list(inspect.signature(kind).parameters.values()) if has_own else []
    given = [7 if parameter.annotation in {int, "int"} else "so" for parameter in parameters] if has_own else ["so"]
    error = kind(*given)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
