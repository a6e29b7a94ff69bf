"""The admin calls: keys, generations, switches; and what a server does about a damaged one."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import activate, active_generation
from secondlook.model.errors import BundleError
from secondlook.service.generations import opening, switching
from secondlook.service.generations.acceptance import check_canary
from tests.images_for_tests import make_image
from tests.service_for_tests import (
    ADMIN,
    KEY,
    Call,
    add_generation,
    answering,
    create_app,
    eventually,
    files,
    open_predictor,
    problem,
    serving,
    settings,
)

NEW = "20990101T000000Z-abcd"
ADMIN_CALLS = [
    ("POST", "/v1/admin/rebuild"),
    ("GET", "/v1/admin/jobs"),
    ("GET", "/v1/admin/jobs/x"),
    ("GET", "/v1/admin/jobs/x/log"),
    ("DELETE", "/v1/admin/jobs/x"),
    ("POST", "/v1/admin/audit"),
    ("GET", "/v1/admin/audit"),
    ("POST", "/v1/admin/map"),
    ("GET", "/v1/admin/map"),
    ("GET", "/v1/admin/generations"),
    ("POST", f"/v1/admin/generations/{NEW}/activate"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_CALLS)
def test_every_admin_call_needs_the_key(call: Call, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}):
        response = call(method, path, headers=headers)
        problem(response, 401, "key-missing")
        assert response.headers["www-authenticate"] == "Bearer"
    for wrong in ("wrong", KEY[:-1], KEY + "x"):
        problem(call(method, path, headers={"Authorization": f"Bearer {wrong}"}), 403, "key-refused")
    problem(call(method, path, headers={"Authorization": "Bearer \xff".encode("latin-1")}), 403, "key-refused")


@pytest.mark.parametrize(("method", "path"), ADMIN_CALLS)
def test_without_a_configured_key_no_key_opens(tiny_bundle: Path, method: str, path: str) -> None:
    with serving(create_app(settings(), predictor=open_predictor(tiny_bundle))) as call:
        for headers in ({}, ADMIN, {"Authorization": "Bearer None"}):
            problem(call(method, path, headers=headers), 403, "admin-disabled")


def test_switch_and_roll_back(call: Call, root: Path) -> None:
    first = active_generation(root)
    add_generation(root, NEW, theta=7.0)
    listed = call("GET", "/v1/admin/generations", headers=ADMIN).json()
    assert [(item["id"], item["is_active"]) for item in listed] == [(first, True), (NEW, False)]
    for generation, theta_is_new in ((NEW, True), (first, False)):
        response = call("POST", f"/v1/admin/generations/{generation}/activate", headers=ADMIN)
        assert response.status_code == 200
        assert response.json()["is_active"] is True
        assert active_generation(root) == generation
        body = call("POST", "/v1/predict", files=files(("a.png", make_image("red")))).json()
        assert body["generation"] == generation
        assert (body["theta"] == 7.0) is theta_is_new


def test_a_replaced_bundle_is_let_go(root: Path) -> None:
    add_generation(root, NEW)
    app = create_app(settings(bundles=root, admin_key=KEY), predictor=open_predictor(root))
    with serving(app) as call:
        call("POST", "/v1/predict", files=files(("a.png", make_image("red"))))
        gone = weakref.ref(app.state.running.batcher.predictor)
        assert call("POST", f"/v1/admin/generations/{NEW}/activate", headers=ADMIN).status_code == 200

        def is_gone() -> bool:
            gc.collect()
            return gone() is None

        eventually(is_gone)


@pytest.mark.parametrize("generation", ["20000101T000000Z-0000", "CURRENT", "..", "%2e%2e%2f%2e%2e"])
def test_an_unknown_generation_is_404(call: Call, root: Path, generation: str) -> None:
    before = active_generation(root)
    problem(call("POST", f"/v1/admin/generations/{generation}/activate", headers=ADMIN), 404, "not-found")
    assert active_generation(root) == before


def test_a_damaged_generation_is_refused_and_the_old_one_answers_on(call: Call, root: Path) -> None:
    first = active_generation(root)
    add_generation(root, NEW)
    keys = root / NEW / "keys.faiss"
    damaged = bytearray(keys.read_bytes())
    damaged[-1] ^= 1
    keys.write_bytes(damaged)
    detail = problem(call("POST", f"/v1/admin/generations/{NEW}/activate", headers=ADMIN), 409, "bundle-refused")
    assert "keys.faiss" in detail
    assert str(root) not in detail
    assert active_generation(root) == first
    assert answering(call) == first


def test_an_unreadable_generation_is_listed_as_such(call: Call, root: Path) -> None:
    add_generation(root, NEW)
    (root / NEW / "manifest.json").write_text("{}")
    listed = call("GET", "/v1/admin/generations", headers=ADMIN).json()
    assert [item["is_readable"] for item in listed] == [True, False]


def test_another_processs_switch_is_followed_and_a_damaged_one_is_not(
    monkeypatch: pytest.MonkeyPatch, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(switching, "FOLLOW_SECONDS", 0.02)
    damaged = add_generation(root, "20990102T000000Z-abcd")
    (root / damaged / "values.npy").unlink()
    add_generation(root, NEW)
    with serving(create_app(settings(bundles=root))) as call:
        first = answering(call)
        activate(root, damaged)
        eventually(lambda: "values.npy is missing" in caplog.text)
        assert answering(call) == first
        activate(root, NEW)
        eventually(lambda: answering(call) == NEW)
        assert caplog.text.count("values.npy is missing") == 1


def test_what_could_not_be_read_is_tried_again_and_what_is_wrong_is_not(
    monkeypatch: pytest.MonkeyPatch, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(switching, "FOLLOW_SECONDS", 0.02)
    opened: list[str] = []
    short = True

    def counted(root: Path, generation: str, **given: Any) -> Any:
        opened.append(generation)
        if generation == NEW and short:
            raise MemoryError("not now")
        return open_bundle(root, generation, **given)

    monkeypatch.setattr(opening, "open_bundle", counted)
    damaged, unseen = add_generation(root, "20990102T000000Z-abcd"), add_generation(root, "20990103T000000Z-abcd")
    add_generation(root, NEW)
    (root / damaged / "values.npy").write_bytes(b"")
    manifest = root / unseen / "manifest.json"
    content = manifest.read_bytes()
    with serving(create_app(settings(bundles=root), predictor=open_predictor(root))) as call:
        activate(root, damaged)
        eventually(lambda: "values.npy has 0 bytes" in caplog.text)
        manifest.unlink()  # as a client of a network file system may see it for a moment
        activate(root, unseen)
        eventually(lambda: opened.count(unseen) > 2)
        manifest.write_bytes(content)
        eventually(lambda: answering(call) == unseen)
        activate(root, NEW)
        eventually(lambda: opened.count(NEW) > 2)
        short = False
        eventually(lambda: answering(call) == NEW)
        activate(root, damaged)
        eventually(lambda: caplog.text.count("values.npy has 0 bytes") == 2)
        time.sleep(0.3)
        assert opened.count(damaged) == 2
    assert caplog.text.count("manifest.json is missing") == caplog.text.count("CURRENT cannot be followed") == 1


def test_the_default_bundle_is_never_changed(tiny_bundle: Path, colour_folder: Path) -> None:
    given = settings(admin_key=KEY, data=colour_folder.parent)
    with serving(create_app(given, predictor=open_predictor(tiny_bundle))) as call:
        for path in ("rebuild", f"generations/{active_generation(tiny_bundle)}/activate"):
            detail = problem(call("POST", f"/v1/admin/{path}", headers=ADMIN), 409, "bundles-read-only")
            assert "SECONDLOOK_BUNDLES" in detail
        assert len(call("GET", "/v1/admin/generations", headers=ADMIN).json()) == 1


def test_answers_during_switches_each_come_from_one_generation(root: Path) -> None:
    first = active_generation(root)
    add_generation(root, NEW, theta=7.0)
    app = create_app(settings(bundles=root, admin_key=KEY, max_batch=2))
    thetas = {NEW: 7.0}

    async def run() -> set[str]:
        seen = set()
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            thetas[first] = app.state.running.batcher.predictor.defaults.theta

            async def ask() -> None:
                response = await client.post("/v1/predict", files=files(*[("a.png", make_image("red"))] * 5))
                body = response.json()
                assert response.status_code == 200, body
                assert body["theta"] == thetas[body["generation"]]
                seen.add(body["generation"])

            async def asking(until: "asyncio.Task[Any]") -> None:
                while not until.done():
                    await ask()
                await ask()

            async def switching() -> None:
                for generation in (NEW, first, NEW):
                    await client.post(f"/v1/admin/generations/{generation}/activate", headers=ADMIN)

            task = asyncio.create_task(switching())
            await asyncio.gather(task, *(asking(task) for _ in range(3)))
        return seen

    assert asyncio.run(run()) == {first, NEW}


def damage_current(root: Path) -> None:
    (root / "CURRENT").write_bytes(b"\xff\x00")


def lose_current(root: Path) -> None:
    (root / "CURRENT").unlink()


def damage_values(root: Path) -> None:
    (root / active_generation(root) / "values.npy").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "named"),
    [(damage_current, "CURRENT"), (lose_current, "no active bundle"), (damage_values, "values.npy")],
)
def test_at_start_the_generation_before_a_damaged_one_answers(
    root: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], named: str
) -> None:
    first = active_generation(root)
    add_generation(root, NEW)
    activate(root, NEW)
    add_generation(root, "20990102T000000Z-abcd")  # newer, and never active
    damage(root)
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        assert answering(call) == first
        assert named in caplog.text
        assert f"generation {first}, active before, answers instead" in caplog.text
        assert call("POST", f"/v1/admin/generations/{first}/activate", headers=ADMIN).status_code == 200
    assert active_generation(root) == first


def test_where_both_are_damaged_the_active_one_is_named(root: Path) -> None:
    first = active_generation(root)
    add_generation(root, NEW)
    activate(root, NEW)
    damage_values(root)
    (root / first / "keys.faiss").unlink()
    with pytest.raises(BundleError, match=rf"{NEW} is refused: values.npy"):
        opening.open_predictor(settings(bundles=root))


def test_a_bundle_that_gives_no_probabilities_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As would a network whose logits overflow on some images only: not finite for one canary."""
    predictor = open_predictor(root)
    encode = predictor.bundle.engine.encode

    def overflowing(images: Any) -> Any:
        logits, keys = encode(images)
        logits[-1, 0] = float("inf")
        return logits, keys

    monkeypatch.setattr(predictor.bundle.engine, "encode", overflowing)
    with pytest.raises(BundleError, match="no probabilities for a test image"):
        check_canary(predictor)
