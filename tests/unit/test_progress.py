"""What long work says where nobody sits before a terminal."""

import pytest

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
