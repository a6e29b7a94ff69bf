"""What a shell is told when Tab is pressed, without loading what a command needs."""

import pytest
from click.shell_completion import BashComplete

from secondlook.cli import cli


@pytest.mark.parametrize(
    ("typed", "begun", "wanted"),
    [
        ([], "in", {"index"}),
        ([], "s", {"serve", "start", "study", "suggest"}),
        (["index"], "--st", {"--store"}),
        (["index", "photos", "--head"], "n", {"network", "none"}),
        (["study"], "pre", {"preprocessing"}),
    ],
)
def test_tab_completes_commands_options_and_choices(typed: list[str], begun: str, wanted: set[str]) -> None:
    complete = BashComplete(cli, {}, "secondlook", "_SECONDLOOK_COMPLETE")
    assert {item.value for item in complete.get_completions(typed, begun)} == wanted
