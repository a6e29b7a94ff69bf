import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from secondlook.indexer.plots import MODELS
from secondlook.indexer.results import Figure, Table, write

HOSTILE = '<script>alert("x")</script> & [red]'


def draw_lines(into: Any) -> None:
    left, right = into.subplots(1, 2)
    for style in MODELS.values():
        left.plot([1, 2], [2, 3], **style.keywords)
    left.legend()
    right.set_title(HOSTILE)


class OneOfEach:
    def as_dict(self) -> dict[str, Any]:
        return {"count": 3}

    def tables(self) -> list[Table]:
        return [Table("errors", ("model", "error %"), (("network", "7.82"),))]

    def figures(self) -> list[Figure]:
        return [Figure("lines", "Lines rise", draw_lines, "two rising lines")]


def test_a_table_as_html_escapes_every_text() -> None:
    made = Table(HOSTILE, (HOSTILE, "error %"), ((HOSTILE, HOSTILE),), HOSTILE).html()
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 5
    ElementTree.fromstring(f"<div>{made}</div>")


def test_columns_that_name_a_row_are_its_heads() -> None:
    made = Table("errors", ("recipe", "model", "error %"), (("paper", "network", "7.82"),), names=2).html()
    assert made.count('<th scope="row">') == 2
    assert "<td>7.82</td>" in made


def test_a_table_on_a_terminal_takes_brackets_as_they_are() -> None:
    from rich.console import Console

    written = io.StringIO()
    Console(width=120, file=written).print(Table("errors", ("model", "error %"), (("[red]", "1 [bold]"),)).rich())
    text = written.getvalue()
    assert "[red]" in text
    assert "1 [bold]" in text


def test_a_row_that_does_not_fit_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("errors", ("model", "error %"), (("network",),))


def test_a_figure_for_a_page_names_no_other_place_and_is_coloured_by_it() -> None:
    made = Figure("lines", "Lines rise", draw_lines, HOSTILE).svg()
    root = ElementTree.fromstring(made)
    assert root.attrib["aria-label"] == HOSTILE
    assert "width" not in root.attrib
    assert root.attrib["viewBox"]
    assert not re.search(r"(?:href|src|url\()=?\W*https?:", made)
    assert "<style" not in made
    assert "<metadata" not in made
    for name, style in MODELS.items():
        assert f"var(--{name}" in made
        assert not re.search(f"[^ ]{style.colour}", made, re.IGNORECASE)
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("lines-") for name in ids)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', made))
    assert used
    assert used <= set(ids)


def test_a_study_is_written_as_json_and_pictures(tmp_path: Path) -> None:
    written = write(OneOfEach(), tmp_path / "new", "errors")
    assert [path.name for path in written] == ["errors.json", "lines.png"]
    assert json.loads(written[0].read_text()) == {"count": 3}
    assert written[1].read_bytes().startswith(b"\x89PNG")
