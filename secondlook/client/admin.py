"""What a server is told by who runs it: rebuilds, generations, and who taught what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

from secondlook.client.answers import Change, Generation, Job, JobError, read, read_list
from secondlook.client.calls import Calls

LISTED = 200
"""Entries or changes in one call."""


class AdminCalls:
    """Calls about changes, rebuilds and generations, as part of a ``Client``."""

    _calls: Calls

    def changes(self) -> Iterator[Change]:
        """List who taught, relabelled and removed what, newest first."""
        query = {"limit": LISTED}
        while listed := read_list(Change, self._calls.json("GET", "/v1/admin/changes", params=query)):
            yield from listed
            query["before"] = listed[-1].change

    def rebuild(
        self,
        *,
        dataset: str | None = None,
        recipe: str | None = None,
        store: str | None = None,
        mirror: bool = False,
        force: bool = False,
    ) -> Job:
        """Build a new generation and switch to it; None leaves a choice to the server. ``wait`` for what it returns.

        Raises:
            ConflictError: a rebuild is running, or the server serves the default bundle.
        """
        asked = {"dataset": dataset, "recipe": recipe, "store": store, "mirror": mirror or None, "force": force or None}
        body = {name: value for name, value in asked.items() if value is not None}
        return read(Job, self._calls.json("POST", "/v1/admin/rebuild", json=body, is_repeatable=False))

    def jobs(self) -> list[Job]:
        """List the rebuilds that are remembered, oldest first."""
        return read_list(Job, self._calls.json("GET", "/v1/admin/jobs"))

    def job(self, id: str) -> Job:
        """Look at one rebuild as it is now.

        Raises:
            NotFoundError: there is none of that id.
        """
        return read(Job, self._calls.json("GET", f"/v1/admin/jobs/{_segment(id)}"))

    def job_log(self, id: str) -> str:
        """Read what one rebuild wrote."""
        return self._calls.send("GET", f"/v1/admin/jobs/{_segment(id)}/log").text

    def cancel(self, id: str) -> Job:
        """Stop a rebuild; one that is over stays as it is."""
        return read(Job, self._calls.json("DELETE", f"/v1/admin/jobs/{_segment(id)}"))

    def wait(
        self,
        job: Job | str,
        progress: Callable[[Job], object] = lambda job: None,
        *,
        every: float = 1.0,
        within: float | None = None,
    ) -> Job:
        """Wait until a rebuild has succeeded, asking ``every`` so many seconds; progress is told what has changed.

        Raises:
            JobError: it failed or was cancelled.
            TimeoutError: it still runs after ``within`` seconds; it goes on.
        """
        started, id = time.monotonic(), job if isinstance(job, str) else job.id
        before: Job | None = None
        while True:
            now = self.job(id)
            if now != before:
                progress(now)
            if now.state == "succeeded":
                return now
            if now.state != "running":
                raise JobError(now)
            before = now
            if within is not None and time.monotonic() + every > started + within:
                raise TimeoutError(f"rebuild {id} still runs: {now.stage}, {now.done:,} of {now.total:,}")
            time.sleep(every)

    def generations(self) -> list[Generation]:
        """List the bundles that can be activated, oldest first."""
        return read_list(Generation, self._calls.json("GET", "/v1/admin/generations"))

    def activate(self, generation: str) -> Generation:
        """Switch to a generation, or back.

        Raises:
            NotFoundError: there is no such generation.
            ConflictError: it is damaged, or the server serves the default bundle.
        """
        path = f"/v1/admin/generations/{_segment(generation)}/activate"
        return read(Generation, self._calls.json("POST", path))


def _segment(name: str) -> str:
    """A name as part of a path: one with a slash must not reach another call."""
    return quote(name, safe="")
