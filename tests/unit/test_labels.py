import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.model.errors import LabelTakenError, ParameterError
from secondlook.model.labels import MAX_LABEL, check_label, fold, normalize_label

PLAIN = ["cat", "tabby cat", "Straße", "猫", "cat 2", "x" * MAX_LABEL, "crème brûlée", "O'Brien & Söhne, 50 %", "C++"]
EMOJI = {
    "family, by joiners": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "heart, as a picture": "\u2764\ufe0f",
    "information, a letter as a picture": "\u2139\ufe0f",
    "rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308",
    "flag of Germany": "\U0001f1e9\U0001f1ea",
    "flag of Scotland": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "keycap": "1\ufe0f\u20e3",
    "number sign's keycap": "#\ufe0f\u20e3",
    "skin tone": "\U0001f44d\U0001f3fd",
    "polar bear": "\U0001f43b\u200d\u2744\ufe0f",
    "goose, newer than Python's tables": "\U0001fabf",
}
JOINED = {
    "Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Hindi": "\u0915\u094d\u200d\u0937",
    "Sinhala": "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "Arabic sign of a number": "\u0600\u0661\u0662",
}


@pytest.mark.parametrize("label", [*PLAIN, *EMOJI.values(), *JOINED.values()])
def test_a_name_is_taken_as_it_is(label: str) -> None:
    assert check_label(label, ("dog",)) == label


@pytest.mark.parametrize(
    "label",
    [
        " cat",
        "cat  ",
        "\tcat\t",
        "cat\n",
        "\r\ncat",
        "\u00a0cat\u3000",
        "\u2003cat\u2028",
        "\ufeffcat",
        "cat\u200b",
        "c\u00adat",
        "ca\u2060t",
        "cat\u200e",
        "\u200fcat",
        "cat\u200d",
        "c\u200cat",
        "cat\ufe0f",
        "\ufe0fcat",
    ],
)
def test_what_is_not_seen_is_no_part_of_it(label: str) -> None:
    assert check_label(label) == "cat"
    assert check_label(label, ("dog", "cat")) == "cat"


@pytest.mark.parametrize("gap", ["  ", "\t", " \t ", "\u00a0", "\u2009", "\u3000", "\u202f", "\u205f\u1680", "\x1f"])
def test_white_space_inside_is_one_space(gap: str) -> None:
    assert normalize_label(f"tabby{gap}cat") == "tabby cat"


def test_composed_and_decomposed_are_one() -> None:
    decomposed = unicodedata.normalize("NFD", "crème brûlée")
    assert decomposed != "crème brûlée"
    assert normalize_label(decomposed) == "crème brûlée"
    assert normalize_label("e\u200b\u0301") == "é"
    assert normalize_label("\u212a\ufe0f") == "K"
    assert check_label(decomposed, ("dog", "crème brûlée")) == "crème brûlée"


def test_a_known_label_that_is_not_normal_is_named_as_it_is() -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    assert check_label("é", (decomposed,)) == decomposed
    assert check_label(" strange  One", ("other", " strange  One")) == " strange  One"
    assert check_label("strange One", ("other", " strange  One")) == " strange  One"


@pytest.mark.parametrize("label", ["", " ", "\t\n", "\u200b", "\u200d\ufe0f", "\u3164", "\u2800", "\u00a0", "\u0301"])
def test_what_shows_nothing_is_refused(label: str) -> None:
    with pytest.raises(ParameterError, match=r"^label: it is empty"):
        check_label(label, ("dog",))


@pytest.mark.parametrize("label", ["x" * (MAX_LABEL + 1), "x" * 10_000])
def test_what_is_too_long_is_refused(label: str) -> None:
    with pytest.raises(ParameterError, match=f"{len(label):,} characters"):
        check_label(label)


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("a\nb", "a line break"),
        ("a\r\nb", "a line break"),
        ("a\u2028b", "a line break"),
        ("a\u0085b", "a line break"),
        ("a\x00b", r"U\+0000"),
        ("a\x1b[31mb", r"U\+001B"),
        ("a\x7fb", r"U\+007F"),
        ("a\x9bb", r"U\+009B"),
        ("\u202ecat", "direction"),
        ("cat\u2066", "direction"),
        ("a\ufdd0", r"U\+FDD0"),
        ("a\uffffb", r"U\+FFFF"),
        ("a\U0010fffeb", r"U\+10FFFE"),
        ("a\ue000", r"U\+E000"),
        ("cat\U000e0063\U000e0061\U000e0074", "tag"),
        ("\U0001f3f4\U000e0067", "tag"),
        ("a\U000e0001", "tag"),
    ],
)
def test_what_is_no_plain_text_is_refused(label: str, why: str) -> None:
    with pytest.raises(ParameterError, match=rf"^label: it .*{why}"):
        check_label(label, ("dog",))


@pytest.mark.parametrize("point", [0xD800, 0xDCE9, 0xDFFF, 0xFFFD])
def test_what_was_not_utf_8_is_refused(point: int) -> None:
    with pytest.raises(ParameterError, match=r"^label: it .*UTF-8"):
        check_label(f"caf{chr(point)}")


def test_who_asks_names_the_thing() -> None:
    with pytest.raises(ParameterError, match=r"^the folder 3: it has a line break"):
        normalize_label("a\nb", "the folder 3")


@pytest.mark.parametrize(
    "label", ["Cat", "CAT", " caT", "\uff43\uff41\uff54", "\U0001d41c\U0001d41a\U0001d42d", "c\u034fat", "CAT\u200b"]
)
def test_one_that_would_be_taken_for_a_known_one_names_that(label: str) -> None:
    with pytest.raises(LabelTakenError) as caught:
        check_label(label, ("dog", "cat"))
    assert caught.value.known == "cat"
    assert "cat" in str(caught.value)


@pytest.mark.parametrize("label", [EMOJI["heart, as a picture"], *JOINED.values()][:-1])
def test_with_joiners_or_without_it_is_one(label: str) -> None:
    bare = "".join(char for char in label if char not in "\u200c\u200d\ufe0f")
    with pytest.raises(LabelTakenError):
        check_label(bare, (label,))
    with pytest.raises(LabelTakenError):
        check_label(label, (bare,))


def test_flags_are_told_apart() -> None:
    england = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    assert check_label(england, (EMOJI["flag of Scotland"], "\U0001f3f4")) == england


@given(
    st.text(st.characters(codec="utf-16-le") | st.sampled_from("Aa\u0301\u212a \u200b\u200d\ufe0f\u00ad\u2000\u034f"))
)
def test_what_is_kept_is_normal_and_found_again(text: str) -> None:
    try:
        label = normalize_label(text)
    except ParameterError:
        return
    assert normalize_label(label) == label
    assert unicodedata.is_normalized("NFC", label)
    assert label == " ".join(label.split())
    assert fold(fold(label)) == fold(label)
    assert check_label(text, ("a thing", label)) == label
    label.encode()
