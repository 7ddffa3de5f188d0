"""Right-to-left text in the order it is drawn, for text engines that only go from left to right.

A small part of the Unicode bidirectional algorithm (UAX #9: directions of whole runs, no embedding levels) and Arabic
letter joining through the presentation forms that Unicode itself lists; enough for names and scores.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import groupby

MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
LAM, ALEFS = "\u0644", "\u0622\u0623\u0625\u0627"


def is_right_to_left(text: str) -> bool:
    """Whether any letter belongs to a right-to-left script."""
    return any(unicodedata.bidirectional(char) in ("R", "AL") for char in text)


def visual_order(text: str) -> str:
    """The text with Arabic letters joined and its characters from left to right as they appear."""
    if not is_right_to_left(text):
        return text
    text = join_arabic(text)
    directions = _directions(text)
    base_rtl = next(d for d in directions if d != "neutral") == "rtl"
    runs = []
    for direction, group in groupby(zip(_settled(directions, base_rtl), text, strict=True), key=lambda pair: pair[0]):
        run = "".join(char for _, char in group)
        runs.append(run[::-1].translate(MIRRORED) if direction == "rtl" else run)
    return "".join(runs[::-1] if base_rtl else runs)


def _directions(text: str) -> list[str]:
    """rtl, ltr or neutral for each character; digits run from left to right in every script."""
    kinds = {"R": "rtl", "AL": "rtl", "L": "ltr", "EN": "ltr", "AN": "ltr"}
    found: list[str] = []
    for char in text:
        kind = unicodedata.bidirectional(char)
        inside_number = kind in ("CS", "ES", "ET") and bool(found) and found[-1] == "ltr"
        combining = kind == "NSM" and bool(found)
        found.append(found[-1] if inside_number or combining else kinds.get(kind, "neutral"))
    return found


def _settled(directions: list[str], base_rtl: bool) -> list[str]:
    """Neutral characters take the direction on both their sides if it is the same, else that of the text."""
    base = "rtl" if base_rtl else "ltr"
    settled = list(directions)
    for i, direction in enumerate(directions):
        if direction == "neutral":
            before = settled[i - 1] if i else base
            after = next((d for d in directions[i:] if d != "neutral"), base)
            settled[i] = before if before == after else base
    return settled


@lru_cache(maxsize=1)
def _presentation_forms() -> dict[str, dict[str, str]]:
    """Letter(s) -> kind of joining (isolated, initial, medial, final) -> the character of that shape."""
    forms: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFBB2), *range(0xFBD3, 0xFC00), *range(0xFE80, 0xFEFD)):
        kind, *letters = unicodedata.decomposition(chr(code)).split() or [""]
        if kind in ("<isolated>", "<initial>", "<medial>", "<final>") and letters:
            forms.setdefault("".join(chr(int(x, 16)) for x in letters), {}).setdefault(kind.strip("<>"), chr(code))
    return forms


def join_arabic(text: str) -> str:
    """The text with Arabic letters replaced by the shapes they take beside their neighbors."""
    forms = _presentation_forms()
    letters: list[str] = []
    for char in text:
        if char in ALEFS and letters and letters[-1] == LAM:
            letters[-1] += char  # the two are written as one
        elif unicodedata.bidirectional(char) != "NSM" or not letters or letters[-1] not in forms:
            letters.append(char)  # vowel marks on Arabic letters are left out: they would part the letters
    shaped = []
    for i, letter in enumerate(letters):
        before = forms.get(letters[i - 1], {}) if i else {}
        after = forms.get(letters[i + 1], {}) if i + 1 < len(letters) else {}
        own = forms.get(letter, {})
        joins_before, joins_after = "initial" in before and "final" in own, "initial" in own and "final" in after
        kinds = {(False, False): "isolated", (False, True): "initial", (True, False): "final", (True, True): "medial"}
        shaped.append(own.get(kinds[joins_before, joins_after], letter))
    return "".join(shaped)
