"""Whether a server can be taught, so that it is said before anyone has chosen images and typed a label."""

from __future__ import annotations

from secondlook.model.errors import AddedLimitError, SecondlookError, StoreUnreachableError
from secondlook.service.http.auth import require_any_admin
from secondlook.service.http.keys import Keys
from secondlook.service.problems import ProblemError, to_problem
from secondlook.service.state import State


def why_not_teachable(state: State, keys: Keys) -> str | None:
    """The sentence that teaching would be refused with now, whatever the images and the label; None = it would not."""
    try:
        _require_teachable(state, keys)
    except (ProblemError, SecondlookError) as error:
        detail = to_problem(error).problem.detail
        return detail[0].upper() + detail[1:]
    return None


def _require_teachable(state: State, keys: Keys) -> None:
    state.generations.require_writable()
    if state.generations.journal is not None:
        state.generations.journal.require_writable()
    require_any_admin(keys)
    predictor, most = state.batcher.predictor, state.settings.max_taught
    if predictor.bundle.is_store_unreachable and not predictor.network_fallback:
        raise StoreUnreachableError("images cannot be looked up")
    if predictor.overlay.added.images >= most:
        raise AddedLimitError(predictor.overlay.added.images, most)
