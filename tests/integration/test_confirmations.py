"""That a label is right as it is, kept in the journal."""

from pathlib import Path

from secondlook.model.journal import TAUGHT, Confirmation, Journal
from tests.journal_for_tests import image, told


def test_a_label_is_found_right_as_long_as_it_is_that_label(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    confirmed = other.confirmations
    assert (confirmed.all(), confirmed.of("cats")) == ([], {})
    journal.add("lobster", [image()], "alice")
    assert confirmed.of("cats") == {}
    # Only what it shows now can be confirmed.
    assert confirmed.add("cats", "taught:1", "crab", "bob", own=None) == "lobster"
    assert confirmed.add("cats", "taught:2", "crab", "bob", own=None) is None
    assert confirmed.add("cats", "a.png", "dog", "bob", own="cat") == "cat"
    assert confirmed.all() == []
    assert confirmed.add("cats", "taught:1", "lobster", "bob", own=None) == "lobster"
    assert confirmed.add("cats", "a.png", "cat", "bob", own="cat") == "cat"
    assert confirmed.add("cats", "a.png", "cat", "carol", own="cat") == "cat"
    assert confirmed.all() == [Confirmation(TAUGHT, "taught:1", "lobster"), Confirmation("cats", "a.png", "cat")]
    # A taught image is the same one whatever the dataset is; a file of another dataset is another image.
    assert journal.confirmations.of("dogs") == {"taught:1": "lobster"}
    assert [(c.action, c.source, c.label, c.key, c.image, c.dataset) for c in journal.changes(limit=2)] == [
        ("confirmed", "a.png", "cat", "bob", None, "cats"),
        ("confirmed", "taught:1", "lobster", "bob", 1, None),
    ]
    journal.correct("cats", "a.png", "dog", "bob", own="cat")
    assert confirmed.add("cats", "a.png", "cat", "bob", own="cat") == "dog"
    journal.correct("cats", "a.png", None, "bob", own="cat")
    assert confirmed.add("cats", "a.png", "dog", "bob", own="cat") is None
    assert confirmed.take_back("cats", "a.png", "bob")
    assert not confirmed.take_back("cats", "a.png", "bob")
    assert journal.confirmations.of("cats") == {"taught:1": "lobster"}
    assert journal.changes(limit=1)[0].action == "unconfirmed"
    # Whoever follows the journal has nothing of it to apply.
    assert told(journal, journal.newest() - 1)[1:] == ([], [], {})
