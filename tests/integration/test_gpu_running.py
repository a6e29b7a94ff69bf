"""Parts of a GPU run: each in a process of its own, whose end is not that of the others."""

import pytest

from benchmarks.gpu import running
from benchmarks.gpu.plan import Found, LeftOut, Outcome, Plan
from benchmarks.gpu.running import run_parts

PLACE = "tests.parts_for_tests"


def test_what_goes_wrong_in_a_part_is_said_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE", 0.5)
    seconds = {"hangs": 1.0}
    names = ("agrees", "differs", "raises", "dies", "hangs", "lacks_module", "lacks_ours", "is_not_here", "agrees")
    parts = {f"{i} {name}": (f"{PLACE}:{name}", seconds.get(name, 60.0)) for i, name in enumerate(names)}
    said: list[str] = []
    outcomes = run_parts(parts, Plan("cpu", quick=True), 600.0, said.append)
    assert [(outcome.part.partition(" ")[2], outcome.status) for outcome in outcomes] == [
        ("agrees", "agrees"),
        ("differs", "differs"),
        ("raises", "failed"),
        ("dies", "failed"),
        ("hangs", "failed"),
        ("lacks_module", "left out"),
        ("lacks_ours", "failed"),
        ("is_not_here", "left out"),
        ("agrees", "agrees"),
    ]
    by_name = {outcome.part.partition(" ")[2]: outcome for outcome in outcomes}
    assert by_name["agrees"].as_dict()["found"] == {"one": {"device": "cpu", "had_time": True, "agrees": True}}
    assert by_name["agrees"].as_dict()["left_out"] == {"other": "it is not here"}
    assert by_name["differs"].as_dict()["found"]["two"] == {"value": 2, "agrees": False, "why": "it is 2"}
    assert by_name["raises"].failed == "RuntimeError: no kernel image"
    assert by_name["dies"].failed == "its process ended with -6"
    assert by_name["hangs"].failed == "it was ended after 2 s"  # 1.5, rounded
    assert by_name["lacks_module"].left_out == [LeftOut("", "no_such_module_anywhere is not installed")]
    assert by_name["is_not_here"].left_out == [LeftOut("", "there are no weights")]
    # What was found before the end is kept.
    for name in ("raises", "dies", "hangs"):
        assert [found.name for found in by_name[name].found] == ["one"]
    assert [outcome.is_good for outcome in outcomes] == [True, False, False, False, False, True, False, True, True]
    assert len(said) == 2 * len(names)


def test_what_there_is_no_time_or_machine_for_is_left_out() -> None:
    (late,) = run_parts({"late": (f"{PLACE}:agrees", 60.0)}, Plan("cpu"), running.GRACE + 1, lambda _: None)
    assert (late.status, late.left_out) == ("left out", [LeftOut("", "no time was left for it")])
    parts = {"machine": (f"{PLACE}:raises", 60.0), "search": (f"{PLACE}:agrees", 60.0)}
    machine, search = run_parts(parts, Plan("cpu"), 600.0, lambda _: None)
    assert (machine.status, search.status) == ("failed", "left out")


def test_an_outcome_is_as_good_as_its_worst() -> None:
    assert Outcome("x", found=[Found("a", {})]).status == "measured"
    assert Outcome("x", found=[Found("a", {}), Found("b", {}, True)]).status == "agrees"
    assert Outcome("x", found=[Found("a", {}, True), Found("b", {}, False)]).status == "differs"
    assert Outcome("x", found=[Found("a", {}, True)], failed="why").status == "failed"
    assert Outcome("x").status == "left out"
