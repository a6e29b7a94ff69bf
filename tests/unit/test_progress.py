"""What long work says where nobody sits before a terminal."""

import pytest

from secondlook.indexer import progress
from secondlook.indexer.progress import on_terminal


def test_each_line_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with on_terminal() as progress:
        for stage, done, total in (
            ("measure", 0, 2),
            ("measure", 2, 2),
            ("measure", 2, 2),
            ("measure", 4, 4),
            ("embed", 4, 4),
            ("embed", 4, 4),
            ("measure", 4, 4),
        ):
            progress(stage, done, total)
    said = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        *("measure: 0 of 2", "measure: 2 of 2", "measure: 4 of 4"),
        "embed: 4 of 4",
        "measure: 4 of 4",
    ]


def test_work_that_begins_anew_counts_its_own_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with on_terminal() as report:
        for start in (0.0, 1000.0):
            for done in (0, 50, 100):
                now = start + done
                report("embed", done, 100)
    assert capsys.readouterr().err.count("embed: 100 of 100, 1/s, 0 s left") == 2
