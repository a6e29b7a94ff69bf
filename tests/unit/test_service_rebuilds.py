"""Rebuilds with a small script in the indexer's place."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from secondlook.model.errors import BundleError
from secondlook.service.errors import AcceptanceError, RebuildRunningError, UnavailableError, UnknownJobError
from secondlook.service.generations import records
from secondlook.service.generations.jobs import LOG_BYTES, Jobs
from secondlook.service.generations.records import Job, Records

MODULE = "secondlook.service.generations.jobs"
PATIENCE = 20.0
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WAITS = 'import time; print(\'{"stage": "embed", "done": 1, "total": 4}\', flush=True); time.sleep(60)'


def runs(script: str) -> tuple[str, ...]:
    """A program that runs a script instead, with the same arguments."""
    return sys.executable, "-c", script


async def ended(rebuilds: Jobs, job: Job) -> Job:
    async with asyncio.timeout(PATIENCE):
        while rebuilds.get(job.id).state == "running":
            await asyncio.sleep(0.01)
    return job


async def reached(job: Job, stage: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while job.stage != stage:
            await asyncio.sleep(0.01)


def run(
    script: str,
    body: Callable[[Jobs, list[str]], Coroutine[Any, Any, None]],
    switch: Callable[[str], None] = lambda generation: None,
) -> None:
    switched: list[str] = []

    async def adopting(generation: str, force: bool) -> str:
        switch(generation)
        switched.append(f"{generation}, forced" if force else generation)
        return "no worse"

    async def running(root: Path) -> None:
        rebuilds = Jobs(root, runs(script), adopting, lambda sentence: sentence.replace("/srv", "ROOT"))
        try:
            await body(rebuilds, switched)
        finally:
            await rebuilds.close()

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(running(Path(root)))


def test_progress_then_a_switch_to_the_generation() -> None:
    script = """
import json, os, sys, time
print("not json"); print("[1]")
assert sys.argv[1:] == ["index", "--no-activate", "--progress=json", "--", "colours"], sys.argv
deadline = time.monotonic() + 10
while os.getpriority(os.PRIO_PROCESS, 0) < 10 or int(open("/proc/self/oom_score_adj").read()) < 500:
    assert time.monotonic() < deadline, "it was not made nice, or not the first to be killed where memory ends"
print(json.dumps({"stage": "embed", "done": 0, "total": 8}))
print(json.dumps({"stage": "embed", "done": 6, "total": 8}), flush=True)
sys.stdin.read(); time.sleep(0.2)
print("warning " * 100_000, file=sys.stderr)
print(json.dumps({"generation": "g"}))
"""

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await rebuilds.rebuild(["--", "colours"])
        assert (job.state, rebuilds.listing()) == ("running", [job])
        async with asyncio.timeout(PATIENCE):
            while job.done != 6:
                await asyncio.sleep(0.01)
        assert (job.stage, job.total) == ("embed", 8)
        assert job.eta_s is not None
        assert job.eta_s >= 0
        with pytest.raises(RebuildRunningError, match=job.id):
            await rebuilds.rebuild([])
        await ended(rebuilds, job)
        assert (job.state, job.generation, job.error) == ("succeeded", "g", None)
        assert job.finished is not None
        assert job.finished >= job.created
        assert switched == ["g"]
        assert job.compared == "no worse"
        forced = await ended(rebuilds, await rebuilds.rebuild(["--", "colours"], force=True))
        assert forced.generation == "g"
        assert switched == ["g", "g, forced"]

    run(script, body)


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
def test_a_failure_has_a_sentence(caplog: pytest.LogCaptureFixture, script: str, error: str) -> None:
    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await ended(rebuilds, await rebuilds.rebuild([]))
        assert job.state == "failed"
        assert job.error is not None
        assert job.error.startswith(error)
        assert "secret" not in job.error
        assert switched == []

    run(script, body)
    assert "/srv/secret" in caplog.text or "secret" not in script


def test_a_bundle_that_is_refused_fails_the_job() -> None:
    def refuse(generation: str) -> None:
        raise BundleError("bundle g is refused: keys.faiss is missing")

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await ended(rebuilds, await rebuilds.rebuild([]))
        assert (job.state, job.error) == ("failed", "bundle g is refused: keys.faiss is missing")

    run('print(\'{"generation": "g"}\')', body, refuse)


@pytest.mark.parametrize("prelude", ["", STUBBORN], ids=["obeys", "stubborn"])
def test_cancelling_stops_the_process(monkeypatch: pytest.MonkeyPatch, prelude: str) -> None:
    monkeypatch.setattr(f"{MODULE}.TERM_SECONDS", 0.3)

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await rebuilds.rebuild([])
        await reached(job, "embed")
        assert rebuilds._process is not None
        pid = rebuilds._process.pid
        async with asyncio.timeout(PATIENCE):
            assert (await rebuilds.cancel(job.id)).state == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert switched == []
        assert (await rebuilds.cancel(job.id)).state == "cancelled"

    run(prelude + WAITS, body)


def test_cancelling_before_the_process_exists_stops_it_too() -> None:
    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        async with asyncio.timeout(PATIENCE):
            assert (await rebuilds.cancel((await rebuilds.rebuild([])).id)).state == "cancelled"

    run(WAITS, body)


def test_closing_stops_what_runs() -> None:
    pids: list[int] = []

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        await reached(await rebuilds.rebuild([]), "embed")
        assert rebuilds._process is not None
        pids.append(rebuilds._process.pid)

    run(WAITS, body)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_an_unknown_job() -> None:
    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        with pytest.raises(UnknownJobError):
            rebuilds.get("x")
        with pytest.raises(UnknownJobError):
            await rebuilds.cancel("x")

    run("", body)


def test_a_worse_generation_fails_the_job_and_is_named() -> None:
    def refuse(generation: str) -> None:
        raise AcceptanceError("generation g is worse than the active one")

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await ended(rebuilds, await rebuilds.rebuild([]))
        assert (job.state, job.generation, job.error) == ("failed", "g", "generation g is worse than the active one")

    run('print(\'{"generation": "g"}\')', body, refuse)


def test_a_log_is_bounded_and_shows_no_folder() -> None:
    script = """
import sys
print('{"stage": "embed", "done": 0, "total": 12345}', flush=True)
print("a line without an end /home/someone/secret/" * 100_000, file=sys.stderr)
print('File "/usr/lib/python3.11/secret/cache.py", line 3: /srv/data/cat.png, 3/4 of https://example.org/a/b', file=sys.stderr)
"""  # noqa: E501

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await rebuilds.rebuild([])
        async with asyncio.timeout(PATIENCE):
            while "embed, 12,345 to do" not in rebuilds.log(job.id) and job.state == "running":
                await asyncio.sleep(0.005)
        await ended(rebuilds, job)
        log = rebuilds.log(job.id)
        assert len(log) <= LOG_BYTES
        assert "secret" not in log
        assert 'File "…/cache.py", line 3: ROOT/data/cat.png, 3/4 of https://example.org/a/b' in log
        assert log.endswith(f" failed: {job.error}\n")
        with pytest.raises(UnknownJobError):
            rebuilds.log("x")

    run(script, body)


def test_old_jobs_are_forgotten_with_their_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REMEMBERED", 2)

    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        done = [await ended(rebuilds, await rebuilds.rebuild([])) for _ in range(3)]
        assert rebuilds.listing() == done[1:]
        assert rebuilds.log(done[1].id)
        with pytest.raises(UnknownJobError):
            rebuilds.log(done[0].id)

    run('print(\'{"generation": "g"}\')', body)


LOOKS = """
import pathlib, sys
*arguments, result = sys.argv[1:]
assert arguments == ["audit", "--quick"], arguments
path = pathlib.Path(result.removeprefix("--for-server="))
path.write_text(path.parent.name)
print('{"generation": "g", "count": 3}')
"""


def test_a_look_at_all_entries_keeps_what_it_found_last() -> None:
    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        assert rebuilds.result("audit", "g") is None
        jobs = []
        for _ in range(3):
            job = await rebuilds.look("audit", ["audit", "--quick"], lambda last: f"{last['count']} are wrong")
            assert not rebuilds.is_rebuilding
            jobs.append(await ended(rebuilds, job))
            assert (job.kind, job.state, job.generation, job.found) == ("audit", "succeeded", "g", "3 are wrong")
            found = rebuilds.result("audit", "g")
            assert found is not None
            assert (found[0].id, found[1].read_text()) == (job.id, job.id)
        assert rebuilds.result("map", "g") is rebuilds.result("audit", "h") is None
        # One before may be read at this moment; older ones are gone.
        assert [rebuilds._records.result(job.id).exists() for job in jobs] == [False, True, True]
        assert switched == []

    run(LOOKS, body)


def test_a_look_that_comes_to_nothing_has_failed() -> None:
    async def body(rebuilds: Jobs, switched: list[str]) -> None:
        job = await ended(rebuilds, await rebuilds.look("audit", ["audit"], str))
        assert job.state == "failed"
        assert job.error == "the audit ended with status 1 and no result: see the job's log"
        assert rebuilds.result("audit", "g") is None

    run("raise SystemExit(1)", body)


async def adopting(generation: str, force: bool) -> str:
    return "no worse"


def test_another_process_on_the_root_sees_and_cancels_a_job_and_starts_none_beside_it(tmp_path: Path) -> None:
    noisy = "import sys; print('a line', file=sys.stderr, flush=True)\n"
    program = runs(noisy + WAITS)

    async def body() -> None:
        owner, sees = Jobs(tmp_path, program, adopting), Jobs(tmp_path, program, adopting)
        job = await owner.rebuild([])
        with pytest.raises(RebuildRunningError, match=job.id):
            await sees.rebuild([])
        async with asyncio.timeout(PATIENCE):
            while sees.get(job.id).stage != "embed":
                await asyncio.sleep(0.01)
            while "a line" not in sees.log(job.id):
                await asyncio.sleep(0.01)
            assert sees.get(job.id).state == "running"
            assert (await sees.cancel(job.id)).state == "cancelled"
        assert owner.get(job.id).state == "cancelled"
        assert owner.listing() == sees.listing() == [owner.get(job.id)]
        assert not owner.is_rebuilding
        second = await sees.rebuild([])
        assert [one.id for one in owner.listing()] == [job.id, second.id]
        await sees.close()
        assert owner.get(second.id).state == "cancelled"

    asyncio.run(body())


def test_what_does_not_stop_for_another_process_is_said_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = runs(WAITS)
    monkeypatch.setattr(f"{MODULE}.CANCEL_SECONDS", 0.1)
    monkeypatch.setattr(f"{MODULE}.REPORT_SECONDS", 60)

    async def body() -> None:
        owner, sees = Jobs(tmp_path, program, adopting), Jobs(tmp_path, program, adopting)
        job = await owner.rebuild([])
        with pytest.raises(UnavailableError, match="another process"):
            await sees.cancel(job.id)
        await owner.close()

    asyncio.run(body())


def test_a_job_whose_process_was_killed_has_failed_and_blocks_nothing(tmp_path: Path) -> None:
    claims = f"""
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from secondlook.service.generations.records import Job, Records
job = Job(id="0" * 16, created=datetime.now(UTC), stage="embed")
claim = Records(Path({str(tmp_path)!r})).claim(job)
print("claimed", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", claims], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        job = Records(tmp_path).read("0" * 16)
        assert job is not None
        assert job.state == "running"
        owner.send_signal(signal.SIGKILL)
    program = runs('print(\'{"generation": "g"}\')')

    async def body() -> None:
        rebuilds = Jobs(tmp_path, program, adopting)
        died = rebuilds.get("0" * 16)
        assert (died.state, died.stage, died.error) == ("failed", "embed", records.DIED)
        assert died.finished is not None
        assert (await rebuilds.cancel(died.id)).state == "failed"
        second = await ended(rebuilds, await rebuilds.rebuild([]))
        assert second.state == "succeeded"
        assert [job.state for job in rebuilds.listing()] == ["failed", "succeeded"]

    asyncio.run(body())


def test_an_id_is_no_path(tmp_path: Path) -> None:
    outside = tmp_path / "x"
    outside.mkdir()
    (outside / "job.json").write_text(Job(id="x", created=datetime.now(UTC)).model_dump_json())
    (outside / "log.txt").write_text("secret")
    (tmp_path / "root" / "jobs").mkdir(parents=True)
    known = Records(tmp_path / "root")
    for job_id in ("../../x", str(outside), ".", "", "0" * 15 + "/"):
        assert known.read(job_id) is None
        assert known.log(job_id) == b""
