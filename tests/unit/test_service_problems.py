import pytest
from fastapi import FastAPI

from secondlook.model.errors import BundleError, ImageError, ImageTooLargeError, ParameterError
from secondlook.service import problems
from secondlook.service.errors import QueueFullError, RebuildRunningError, UnavailableError, UnknownJobError
from secondlook.service.http.limits import Drain, RequestLimits
from secondlook.service.problems import Kind, clean, of_image, to_problem
from tests.service_for_tests import problem, serving, settings


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (ImageError("x"), 400, "undecodable-image"),
        (ImageTooLargeError("x"), 413, "too-many-pixels"),
        (ParameterError("x"), 422, "invalid-parameter"),
        (QueueFullError("x"), 429, "queue-full"),
        (UnavailableError("x"), 503, "not-ready"),
        (RebuildRunningError("x"), 409, "rebuild-running"),
        (UnknownJobError("x"), 404, "not-found"),
    ],
)
def test_maps_the_family(error: Exception, status: int, slug: str) -> None:
    mapped = to_problem(error).problem
    assert (mapped.status, mapped.type, mapped.detail) == (status, f"urn:secondlook:problem:{slug}", "x.")


def test_a_full_queue_says_when_to_retry() -> None:
    assert to_problem(QueueFullError("x")).response().headers["retry-after"] == "1"


@pytest.mark.parametrize("error", [BundleError("/srv/secret is damaged"), KeyError("/srv/secret")])
def test_inner_text_stays_inside(error: Exception) -> None:
    mapped = to_problem(error).problem
    assert mapped.status == 500
    assert "secret" not in mapped.detail


def test_types_are_distinct() -> None:
    assert len({kind.urn for kind in Kind}) == len(Kind.__members__)


def test_an_images_problem_names_its_file() -> None:
    mapped = of_image(ImageError("the file is empty"), "a.png").problem
    assert mapped.filename == "a.png"
    assert mapped.detail == "a.png: the file is empty."


def test_clients_text_is_bounded_and_printable() -> None:
    assert clean("a\x00b\x1b[31m\u202ec\nd\ud800") == "a\ufffdb\ufffd[31m\ufffdc\ufffdd\ufffd"
    assert clean("x" * 200) == "x" * 200
    assert clean("x" * 201) == "x" * 199 + "…"


def test_an_unexpected_error_is_a_plain_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(RequestLimits, settings=settings(), drain=Drain())
    problems.install(app)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    with serving(app) as call:
        response = call("GET", "/broken")
        assert "secret" not in problem(response, 500, "internal")
        assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret" in caplog.text
