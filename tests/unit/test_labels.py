import pytest

from model.errors import LabelTakenError, ParameterError
from model.labels import MAX_LABEL, check_label


@pytest.mark.parametrize("label", ["cat", "tabby cat", "Straße", "猫", "cat 2", "x" * MAX_LABEL])
def test_a_name_is_taken(label: str) -> None:
    check_label(label, ("dog",))


@pytest.mark.parametrize("label", ["", " ", "\t\n", "x" * (MAX_LABEL + 1), "x" * 10_000, "a\nb", "a  b", " cat"])
def test_what_names_nothing_is_refused(label: str) -> None:
    with pytest.raises(ParameterError, match=r"^label: "):
        check_label(label, ("dog",))


@pytest.mark.parametrize("label", ["Cat", "CAT", " cat", "cat ", "c\u0041t", "\uff43\uff41\uff54"])
def test_one_that_would_be_taken_for_a_known_one_names_that(label: str) -> None:
    with pytest.raises(LabelTakenError) as caught:
        check_label(label, ("dog", "cat"))
    assert caught.value.known == "cat"
    assert "cat" in str(caught.value)


def test_known_labels_are_taken_as_they_are() -> None:
    check_label(" strange  One", ("other", " strange  One"))
