"""Which names a class may have, and when two of them are one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import lru_cache

from secondlook.model.errors import LabelTakenError, ParameterError

MAX_LABEL = 100
"""Characters (code points) of a class's name."""

# Invisible, and without a meaning in a name: soft hyphen, zero width space, directional marks, word joiner, the byte
# order mark. They come along when text is copied.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufff8]")
# Joiners and variation selectors mean something after an emoji, a digit (keycaps), or a letter of a script that joins.
_STRAY = re.compile("(?:^|(?<=[\\sA-Za-z]))[\u200c\u200d\ufe00-\ufe0f]+")
# Flags of parts of countries are spelt with tags: a black flag, letters, a closing tag.
_TAGS = re.compile("[\U000e0000-\U000e007f]")
_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,30}\U000e007f")
_LINE_BREAK = re.compile("[\n-\r\x1c-\x1e\x85\u2028\u2029]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e0fff]"
)
"""Default_Ignorable_Code_Point of Unicode, less the tags, which tell flags apart."""


def normalize_label(text: str, what: str = "label") -> str:
    """One way to write a label: Unicode's NFC, single spaces, none at the ends, nothing invisible without a meaning.

    What comes out goes through unchanged. ``what`` is how the sentence of an error begins.

    Raises:
        ParameterError: it is empty or too long, was not UTF-8 where it came from, or has a line break, a control
            character, a bidirectional override or a code point that stands for no character.
    """
    if _SURROGATE.search(text):
        raise ParameterError(f"{what}: it is not text in UTF-8")
    text = unicodedata.normalize("NFC", text.strip())
    text = _STRAY.sub("", _INVISIBLE.sub("", text))
    text = unicodedata.normalize("NFC", " ".join(_spaced(text, what).split()))
    if not any(unicodedata.category(char)[0] not in "MZ" and char not in _BLANK for char in text):
        raise ParameterError(f"{what}: it is empty: say what the images show")
    if len(text) > MAX_LABEL:
        raise ParameterError(f"{what}: it has {len(text):,} characters, at most {MAX_LABEL} are accepted")
    return text


def _spaced(text: str, what: str) -> str:
    """The same, if nothing in it is refused."""
    if _LINE_BREAK.search(text):
        raise ParameterError(f"{what}: it has a line break: write it on one line")
    if _BIDI.search(text):
        raise ParameterError(f"{what}: it has a character that turns the direction of writing: leave it out")
    if "\ufffd" in text:
        raise ParameterError(
            f"{what}: it has the sign \ufffd, which stands for what could not be read: send it as UTF-8"
        )
    if _TAGS.search(_FLAG.sub("", text)):
        raise ParameterError(f"{what}: it has tag characters that make no flag: leave them out")
    for char in text:
        category = unicodedata.category(char)
        # Characters that are newer than this Python's tables (category Cn) are taken: some are animals.
        if (category == "Cc" and char not in "\t\x1f") or category == "Co" or _is_noncharacter(char):
            raise ParameterError(
                f"{what}: it has the code point U+{ord(char):04X}, which is no character: leave it out"
            )
    return text


def _is_noncharacter(char: str) -> bool:
    return "\ufdd0" <= char <= "\ufdef" or ord(char) & 0xFFFE == 0xFFFE


@lru_cache(maxsize=1 << 14)
def fold(label: str) -> str:
    """A label without what people do not tell apart: case, white space, joiners, ways to write the same character."""
    text = unicodedata.normalize("NFKC", _IGNORED.sub("", label)).casefold()
    return " ".join(_IGNORED.sub("", unicodedata.normalize("NFKC", text)).split())


def check_label(label: str, known: Sequence[str] = ()) -> str:
    """The label as it is kept: a known one that is written otherwise, or normalised and new.

    Raises:
        ParameterError: as ``normalize_label``.
        LabelTakenError: it would be taken for a known one, from which it differs.
    """
    if label in known:
        return label
    normal = normalize_label(label)
    folded = fold(normal)
    like = [other for other in known if fold(other) == folded]
    for other in like:
        # Bundles that were made before labels were normalised may have any.
        if " ".join(unicodedata.normalize("NFC", other).split()) == normal:
            return other
    if like:
        raise LabelTakenError(like[0])
    return normal


def new_labels(given: Sequence[str], used: Collection[str], own: Sequence[str]) -> list[str]:
    """The used labels that are none of a generation's ``own``, in the order in which they were ``given`` to the root.

    One that another generation knew by itself when it was given comes after those.
    """
    new = [label for label in given if label in used and label not in own]
    return new + sorted(set(used) - {*own, *new})
