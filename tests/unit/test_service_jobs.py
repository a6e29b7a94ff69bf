"""Rebuilds with a small script in the indexer's place."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from model.errors import BundleError
from service import jobs
from service.errors import GateError, RebuildRunningError, UnknownJobError
from service.jobs import Job, Rebuilds

PATIENCE = 20.0
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WAITS = 'import time; print(\'{"stage": "embed", "done": 1, "total": 4}\', flush=True); time.sleep(60)'


async def ended(rebuilds: Rebuilds, job: Job) -> Job:
    async with asyncio.timeout(PATIENCE):
        while rebuilds.get(job.id).state == "running":
            await asyncio.sleep(0.01)
    return job


async def reached(job: Job, stage: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while job.stage != stage:
            await asyncio.sleep(0.01)


def run(
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    body: Callable[[Rebuilds, list[str]], Coroutine[Any, Any, None]],
    switch: Callable[[str], None] = lambda generation: None,
) -> None:
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", script))
    switched: list[str] = []

    async def adopting(generation: str, force: bool) -> str:
        switch(generation)
        switched.append(f"{generation}, forced" if force else generation)
        return "no worse"

    async def running() -> None:
        rebuilds = Rebuilds(adopting, lambda sentence: sentence.replace("/srv", "ROOT"))
        try:
            await body(rebuilds, switched)
        finally:
            await rebuilds.close()

    asyncio.run(running())


def test_progress_then_a_switch_to_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import json, os, sys, time
print("not json"); print("[1]")
assert sys.argv[1:] == ["--no-activate", "--progress=json", "--", "colours"], sys.argv
deadline = time.monotonic() + 10
while os.getpriority(os.PRIO_PROCESS, 0) < 10 or int(open("/proc/self/oom_score_adj").read()) < 500:
    assert time.monotonic() < deadline, "it was not made nice, or not the first to be killed where memory ends"
print(json.dumps({"stage": "embed", "done": 0, "total": 8}))
print(json.dumps({"stage": "embed", "done": 6, "total": 8}), flush=True)
sys.stdin.read(); time.sleep(0.2)
print("warning " * 100_000, file=sys.stderr)
print(json.dumps({"generation": "g"}))
"""

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = rebuilds.start(["--", "colours"])
        assert (job.state, rebuilds.listing()) == ("running", [job])
        async with asyncio.timeout(PATIENCE):
            while job.done != 6:
                await asyncio.sleep(0.01)
        assert (job.stage, job.total) == ("embed", 8)
        assert job.eta_s is not None
        assert job.eta_s >= 0
        with pytest.raises(RebuildRunningError, match=job.id):
            rebuilds.start([])
        await ended(rebuilds, job)
        assert (job.state, job.generation, job.error) == ("succeeded", "g", None)
        assert job.finished is not None
        assert job.finished >= job.created
        assert switched == ["g"]
        assert job.compared == "no worse"
        forced = await ended(rebuilds, rebuilds.start(["--", "colours"], force=True))
        assert forced.generation == "g"
        assert switched == ["g", "g, forced"]

    run(monkeypatch, script, body)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ('print(\'{"error": "/srv/data has no images"}\'); raise SystemExit(1)', "ROOT/data has no images"),
        ("raise RuntimeError('/srv/secret')", "the indexer ended with status 1"),
        ("pass", "the indexer ended with status 0"),
        ("import os; os.kill(os.getpid(), 9)", "the indexer ended with status -9"),
        ("print('x' * 1_000_000)", "the server failed"),
    ],
    ids=["error", "traceback", "silence", "killed", "endless line"],
)
def test_a_failure_has_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str, error: str
) -> None:
    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = await ended(rebuilds, rebuilds.start([]))
        assert job.state == "failed"
        assert job.error is not None
        assert job.error.startswith(error)
        assert "secret" not in job.error
        assert switched == []

    run(monkeypatch, script, body)
    assert "/srv/secret" in caplog.text or "secret" not in script


def test_a_bundle_that_is_refused_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(generation: str) -> None:
        raise BundleError("bundle g is refused: keys.faiss is missing")

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = await ended(rebuilds, rebuilds.start([]))
        assert (job.state, job.error) == ("failed", "bundle g is refused: keys.faiss is missing")

    run(monkeypatch, 'print(\'{"generation": "g"}\')', body, refuse)


@pytest.mark.parametrize("prelude", ["", STUBBORN], ids=["obeys", "stubborn"])
def test_cancelling_stops_the_process(monkeypatch: pytest.MonkeyPatch, prelude: str) -> None:
    monkeypatch.setattr(jobs, "TERM_SECONDS", 0.3)

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = rebuilds.start([])
        await reached(job, "embed")
        assert rebuilds._process is not None
        pid = rebuilds._process.pid
        async with asyncio.timeout(PATIENCE):
            assert (await rebuilds.cancel(job.id)).state == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert switched == []
        assert (await rebuilds.cancel(job.id)).state == "cancelled"

    run(monkeypatch, prelude + WAITS, body)


def test_cancelling_before_the_process_exists_stops_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        async with asyncio.timeout(PATIENCE):
            assert (await rebuilds.cancel(rebuilds.start([]).id)).state == "cancelled"

    run(monkeypatch, WAITS, body)


def test_closing_stops_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        await reached(rebuilds.start([]), "embed")
        assert rebuilds._process is not None
        pids.append(rebuilds._process.pid)

    run(monkeypatch, WAITS, body)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_an_unknown_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        with pytest.raises(UnknownJobError):
            rebuilds.get("x")
        with pytest.raises(UnknownJobError):
            await rebuilds.cancel("x")

    run(monkeypatch, "", body)


def test_a_worse_generation_fails_the_job_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(generation: str) -> None:
        raise GateError("generation g is worse than the active one")

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = await ended(rebuilds, rebuilds.start([]))
        assert (job.state, job.generation, job.error) == ("failed", "g", "generation g is worse than the active one")

    run(monkeypatch, 'print(\'{"generation": "g"}\')', body, refuse)


def test_a_log_is_bounded_and_shows_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import sys
print('{"stage": "embed", "done": 0, "total": 12345}', flush=True)
print("a line without an end /home/someone/secret/" * 100_000, file=sys.stderr)
print('File "/usr/lib/python3.11/secret/cache.py", line 3: /srv/data/cat.png, 3/4 of https://example.org/a/b', file=sys.stderr)
"""  # noqa: E501

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        job = rebuilds.start([])
        async with asyncio.timeout(PATIENCE):
            while "embed, 12,345 to do" not in rebuilds.log(job.id) and job.state == "running":
                await asyncio.sleep(0.005)
        await ended(rebuilds, job)
        log = rebuilds.log(job.id)
        assert len(log) <= jobs.LOG_BYTES
        assert "secret" not in log
        assert 'File "…/cache.py", line 3: ROOT/data/cat.png, 3/4 of https://example.org/a/b' in log
        assert log.endswith(f" failed: {job.error}\n")
        with pytest.raises(UnknownJobError):
            rebuilds.log("x")

    run(monkeypatch, script, body)


def test_old_jobs_are_forgotten_with_their_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "REMEMBERED", 2)

    async def body(rebuilds: Rebuilds, switched: list[str]) -> None:
        done = [await ended(rebuilds, rebuilds.start([])) for _ in range(3)]
        assert rebuilds.listing() == done[1:]
        assert rebuilds.log(done[1].id)
        with pytest.raises(UnknownJobError):
            rebuilds.log(done[0].id)

    run(monkeypatch, 'print(\'{"generation": "g"}\')', body)
