from __future__ import annotations

import pytest

from utils.imaging.rtl import is_right_to_left, join_arabic, visual_order


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("person 0.87", "person 0.87", id="latin"),
        pytest.param("אבג", "גבא", id="hebrew"),
        pytest.param("אב 0.87", "0.87 בא", id="number stays readable"),
        pytest.param("cat אב dog", "cat בא dog", id="inside latin"),
        pytest.param("אב (גד)", "(דג) בא", id="brackets are mirrored"),
        pytest.param("ab (אב)", "ab (בא)", id="brackets of latin"),
    ],
)
def test_visual_order(text: str, expected: str) -> None:
    assert visual_order(text) == expected


def test_arabic_letters_join() -> None:
    # seen initial, lam medial, alef final form one ligature with lam; meem isolated after alef
    assert join_arabic("سلام") == "\ufeb3\ufefc\ufee1"
    assert join_arabic("بيت") == "\ufe91\ufef4\ufe96"  # initial, medial, final
    assert join_arabic("دار") == "\ufea9\ufe8d\ufead"  # none of these joins the next: all isolated
    assert join_arabic("a b") == "a b"


def test_which_texts_run_from_right_to_left() -> None:
    assert is_right_to_left("a ש")
    assert is_right_to_left("سلام")
    assert not is_right_to_left("人 person 0.87 ()")
    assert not is_right_to_left("")
