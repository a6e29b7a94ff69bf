"""The documents keep their promises about names: links, files, commands, options, settings."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from benchmarks.__main__ import PARTS, bench
from benchmarks.gpu.__main__ import options as gpu_options
from secondlook.cli import cli
from secondlook.service.settings import settings_table
from tests.service_for_tests import create_app, settings

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs/README.md"
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in ROOT_PAGES), *sorted(ROOT.glob("docs/**/*.md"))]
OURS = "benchmarks|curation|docker|docs|evaluation|indexer|locks|model|secondlook|service|tests|.ci"
OTHERS_OPTIONS = {"--data-binary", "--fail-with-body", "--profile", "--retry", "--scale"}
"""Of Docker and curl, where a page names them alone."""

GPU_OPTIONS = {name for action in gpu_options()._actions for name in action.option_strings}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str) -> str:
    """What stands in fences, lines that go on put together."""
    return re.sub(r" *\\\n\s*", " ", "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)))


def prose(text: str) -> str:
    """What stands outside of fences."""
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """What stands in backticks outside of fences, each on one line."""
    return [re.sub(r"\s+", " ", one) for one in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        times = sum(1 for one in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one))
        found.add(f"{slug}-{times}" if times else slug)
    return found


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each relative link of a page: as written, the file, and the anchor."""
    without_code = re.sub(r"`[^`]*`", "", prose(page.read_text()))
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield target, (page.parent / unquote(path)).resolve() if path else page, anchor


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, path, anchor in links(page):
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(path), target


def test_every_page_and_picture_is_reached_from_the_index() -> None:
    reached, left = {INDEX, ROOT / "README.md"}, [INDEX, ROOT / "README.md"]
    while left:
        page = left.pop()
        for _, path, _ in links(page):
            if path not in reached and path.is_relative_to(ROOT / "docs"):
                reached.add(path)
                if path.suffix == ".md":
                    left.append(path)
    there = {path for path in ROOT.glob("docs/**/*") if path.suffix in (".md", ".png", ".svg")}
    # Shown as an answer's image, and not as a picture.
    assert there - reached == {ROOT / "docs/plane.png"}


def test_decisions_are_listed_by_their_titles() -> None:
    def title(page: Path) -> str:
        return re.sub(r"^# \d+:? ", "", page.read_text().partition("\n")[0])

    listed = re.findall(r"^- \[(\d+)\]\((\S+)\): (.+)$", INDEX.read_text(), re.MULTILINE)
    there = sorted(ROOT.glob("docs/decisions/*.md"))
    assert listed == [(page.name[:3], f"decisions/{page.name}", title(page)) for page in there]


def test_every_group_of_a_room_is_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for room in ("model", "indexer", "curation", "evaluation", "service"):
        for group in ROOT.glob(f"{room}/*/__init__.py"):
            assert re.search(rf"^\|.*`{group.parent.name}/`", text, re.MULTILINE), group.parent


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for named in {word for one in code(text) for word in one.split()}:
        path = re.sub(r"(::.*|[,;:.])$", "", named.removeprefix("./"))
        if re.fullmatch(rf"({OURS})/[\w./*-]*", path):
            assert list(ROOT.glob(path.rstrip("/"))), named
    for named in re.findall(r"\bdecisions?[ /](\d{3})\b", text):
        assert list(ROOT.glob(f"docs/decisions/{named}-*.md")), named


def options(command: click.Command) -> set[str]:
    return {"--help", "-h", *(one for given in command.params for one in (*given.opts, *given.secondary_opts))}


def resolved(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command that some words name, and the words after it; None where they name no command but all of them."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-") or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            return (command, words) if command is not cli or words[:1] == ["--version"] else None
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found
    return command, words


def called(text: str, program: str) -> Iterator[list[str]]:
    """The words after the program, wherever a page has it run, or names it in backticks."""
    for line in (*blocks(text).splitlines(), *code(text)):
        for words in re.findall(rf"(?<!-n )(?<![\w-]){program}(?= )([^|&;)'\"`]*)", line):
            yield re.sub(r"\s#.*", "", words).replace("…", "").split()


def check_options(words: list[str], known: set[str]) -> None:
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0].rstrip(",") in known, word


@every_page
def test_commands_have_the_options_that_are_named(page: Path) -> None:
    for words in called(page.read_text(), "secondlook"):
        found = resolved(words)
        if found is not None:
            check_options(found[1], options(found[0]) | ({"--version"} if found[0] is cli else set()))


@every_page
def test_benchmarks_have_the_parts_that_are_named(page: Path) -> None:
    for words in called(page.read_text(), "python -m benchmarks"):
        named = [word for word in words[:1] if not word.startswith("-") and word != "PART"]
        named += [word for before, word in pairwise(words) if before == "--part"]
        assert set(named) <= set(PARTS), words
        check_options(words, options(bench))
    for words in called(page.read_text(), "-m benchmarks.gpu"):
        check_options(words, GPU_OPTIONS)


def all_commands(command: click.Command = cli) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from all_commands(found)


@every_page
def test_options_that_are_named_alone_are_some_commands(page: Path) -> None:
    known = OTHERS_OPTIONS.union(options(bench), GPU_OPTIONS, *map(options, all_commands()))
    for one in code(page.read_text()):
        if one.startswith("--"):
            check_options(one.split(), known)


def test_every_command_has_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name in cli.list_commands(click.Context(cli)):
        assert re.search(rf"secondlook {name}\b", text), name


@every_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for line in (*blocks(text).splitlines(), *code(text)):
        assert set(re.findall(r"(?:^|[$\s])make ([a-z-]+)", line)) <= targets, line


def test_the_settings_table_is_the_settings() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    between = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", text, re.DOTALL)
    assert between is not None
    assert between.group(1) == settings_table()


@every_page
def test_settings_that_are_named_exist(page: Path) -> None:
    # What only tests, or only the Compose file, read.
    others = {"SECONDLOOK_AUTHOR_WEIGHTS", "SECONDLOOK_KEY", "SECONDLOOK_MILVUS_TOKEN", "SECONDLOOK_MINIO_PASSWORD"}
    others |= {"SECONDLOOK_MINIO_USER", "SECONDLOOK_PHOTOS"}
    known = set(re.findall(r"SECONDLOOK_\w+", settings_table())) | others
    # Not _SECONDLOOK_COMPLETE, which is for shells.
    assert set(re.findall(r"(?<!_)SECONDLOOK_\w*\w", page.read_text())) <= known | {"SECONDLOOK_"}


@cache
def calls() -> dict[str, set[str]]:
    paths = create_app(settings()).openapi()["paths"]
    return {re.sub(r"{\w+}", "{}", path): {method.upper() for method in methods} for path, methods in paths.items()}


@every_page
def test_calls_and_metrics_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for methods, path in re.findall(r"\b((?:GET|POST|PATCH|DELETE)(?:, \w+)*) (/v1/[\w/{}-]+)", text):
        assert set(methods.split(", ")) <= calls()[re.sub(r"{\w+}", "{}", path.rstrip("/"))], path
    metrics = (ROOT / "service/metrics.py").read_text()
    for name in re.findall(r"`secondlook_(\w+?)(?:_total)?[`{]", text):
        assert re.search(rf'"(secondlook_)?{name}(_total)?"', metrics), name


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    assert not re.findall(r"@[A-Z]+@", text)
