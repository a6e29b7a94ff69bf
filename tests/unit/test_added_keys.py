"""Keys that overlays share, against plain dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.model.stores import added_keys
from secondlook.model.stores.added_keys import AddedKeys, Copies, added_id
from secondlook.model.stores.corrections import REMOVED, Corrections

Held = dict[int, tuple[int, list[int], list[list[float]]]]

numbers = st.integers(0, 12)
actions = st.lists(
    st.dictionaries(numbers, st.one_of(st.none(), st.integers(0, 3), st.tuples(st.integers(0, 3), st.booleans()))),
    max_size=12,
)


def copies(number: int, code: int, *, both: bool) -> Copies:
    ids = [added_id(number), added_id(number, mirrored=True)][: 1 + both]
    return Copies(code, np.array(ids), np.array(ids)[:, None].astype(np.float32) % 1009 * np.ones((1, 3), np.float32))


def told(added: AddedKeys) -> Held:
    return {number: (of.code, of.ids.tolist(), of.keys.tolist()) for number, of in added}


@given(actions=actions, forks=st.sets(st.integers(0, 12)))
def test_it_is_a_dictionary_whose_earlier_states_stay(actions: list[dict[int, object]], forks: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(added_keys, "FEWEST_ROWS", 3)
        states: list[tuple[AddedKeys, Held]] = [(AddedKeys(3), {})]
        for step, action in enumerate(actions):
            # Now and then from an earlier state: two that follow the same one do not write over each other.
            before, held = states[step // 2 if step in forks else -1]
            wanted, held = {}, dict(held)
            for number, now in action.items():
                if isinstance(now, tuple):
                    wanted[number] = copies(number, now[0], both=now[1])
                    held[number] = told(AddedKeys(3).changed({number: wanted[number]}))[number]
                elif number in held and isinstance(now, int):
                    wanted[number] = now
                    held[number] = (now, *held[number][1:])
                elif now is None:
                    wanted[number] = None
                    held.pop(number, None)
            states.append((before.changed(wanted), held))
        for added, held in states:
            assert told(added) == held
            assert added.ids.tolist() == sorted(added.ids.tolist())
            assert added.images == len(held)
            assert added.count == len(added.now()[0]) == sum(len(ids) for _, ids, _ in held.values())
            uses = [sum(len(ids) for code, ids, _ in held.values() if code == each) for each in range(4)]
            assert (added.uses.tolist() + [0] * 4)[:4] == uses
            for number in range(13):
                assert added.has(number) == (number in held)
                for mirrored in (False, True):
                    entry = added_id(number, mirrored=mirrored)
                    row = added.row_of(entry)
                    assert (row is not None) == (number in held and entry in held[number][1])
                    assert row is None or added.code(row) == held[number][0]


@given(changes=st.lists(st.dictionaries(st.integers(0, 20), st.one_of(st.none(), st.integers(-1, 3))), max_size=8))
def test_decisions_are_a_dictionary(changes: list[dict[int, int | None]]) -> None:
    corrections, held = Corrections(), {}
    class_of = np.array([10, 11, 12, 13])
    for change in changes:
        before, was = corrections, dict(held)
        corrections = corrections.changed(change)
        held = {position: code for position, code in {**held, **change}.items() if code is not None}
        assert dict(zip(before.positions.tolist(), before.codes.tolist(), strict=True)) == was
    every = np.arange(-1, 25)
    assert corrections.positions.tolist() == sorted(held)
    assert [corrections.get(position) for position in every.tolist()] == [
        held.get(position) for position in every.tolist()
    ]
    assert corrections.is_removed(every).tolist() == [held.get(position) == REMOVED for position in every.tolist()]
    labelled = corrections.labelled(every, every + 100, class_of).tolist()
    wanted = [class_of[held[p]] if held.get(p, REMOVED) != REMOVED else p + 100 for p in every.tolist()]
    assert labelled == wanted


def test_what_is_added_is_not_copied_with_all_that_is_there() -> None:
    added = AddedKeys(3).changed({number: copies(number, 0, both=True) for number in range(1000)})
    added = added.changed({1000: copies(1000, 0, both=True)})
    more = added.changed({1001: copies(1001, 1, both=True)}).changed({3: 1, 4: None})
    assert np.shares_memory(more.keys, added.keys)
    assert more.rows == added.rows + 2
