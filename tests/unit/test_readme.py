"""The README keeps its promises about names."""

import re
from pathlib import Path

from secondlook.cli import COMMANDS
from secondlook.service.settings import settings_table

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_settings_table_is_the_settings() -> None:
    between = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", README, re.DOTALL)
    assert between is not None
    assert between.group(1) == settings_table()


def test_commands_in_the_readme_exist() -> None:
    used = re.findall(r"(?:`|\.venv/bin/)secondlook ([a-z][a-z-]+)", README)
    assert len(used) > 5
    assert set(used) <= COMMANDS.keys()


def test_every_make_target_named_exists() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"@[A-Z]+@", README)
