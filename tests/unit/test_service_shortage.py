"""What an error is put down to."""

import errno

from secondlook.model.errors import BundleError, StoreUnreachableError
from secondlook.service.generations.switching import _is_final
from secondlook.service.shortage import is_passing, is_short


def test_an_error_that_is_its_own_cause_is_looked_at_once() -> None:
    own, away, refused = ValueError("again"), StoreUnreachableError("away"), BundleError("wrong")
    own.__cause__ = away.__cause__ = refused.__cause__ = own
    assert not is_passing(away)
    assert not is_short(away)
    assert _is_final(refused)


def test_causes_are_looked_at_to_the_last() -> None:
    first, second, last = StoreUnreachableError("away"), ValueError("again"), OSError(errno.EMFILE, "too many")
    first.__cause__, second.__cause__, last.__cause__ = second, last, first
    assert is_passing(first)
    assert is_short(first)
