from __future__ import annotations

import logging
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import features

from utils.imaging import text as glyphs
from utils.imaging.text import spelt_out, text_mask

CACHED = (glyphs.text_mask, glyphs._opencv_font, glyphs._opencv_has, glyphs._best_font, glyphs._warn)


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


@pytest.mark.parametrize("text", ["person 0.87", "Ťava", "человек", "άνθρωπος", "人", "ひと", "사람"])
@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="built-in Unicode fonts came with OpenCV 5")
def test_opencv_draws_these_scripts(text: str) -> None:
    assert all(glyphs._opencv_has(char) for char in text)
    mask = text_mask(text, 20)
    assert mask.max() > 200
    assert not np.array_equal(mask, text_mask("?" * len(text), 20))


@pytest.mark.parametrize("text", ["شخص", "אדם", "ადამიანი", "մարդ", "व्यक्ति"])
def test_other_scripts_are_drawn_without_opencv(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "_paint_opencv", lambda *_: pytest.fail("drawn by OpenCV"))
    monkeypatch.setattr(glyphs, "_opencv_has", lambda char: char == " ")
    assert text_mask(text, 20).max() > 200


def test_every_script_is_drawn_before_opencv_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    masks = [text_mask(text, 20) for text in ("person", "человек", "шар", "人", "火")]
    assert all(mask.max() > 200 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == len(masks)  # missing letters stay distinct


def test_mask_height_and_width() -> None:
    small, large = text_mask("Hg", 10), text_mask("Hg", 40)
    assert small.shape[0] == 13
    assert large.shape[0] == 52
    assert 3 * small.shape[1] < large.shape[1] < 5 * small.shape[1]
    assert large[:, 0].any()
    assert large[:, -1].any()


def test_accents_and_descenders_are_not_cut() -> None:
    for text in ("Ǻ", "Ṩgj", "שּׁ"):
        canvas = glyphs._painter(text)(text, (200, 300), (50, 100), 40)
        assert text_mask(text, 40).sum(dtype=int) == canvas.sum(dtype=int)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b"])
def test_text_without_ink_has_no_width(text: str) -> None:
    assert text_mask(text, 10).shape[1] == 0


def test_control_characters_are_spaces() -> None:
    np.testing.assert_array_equal(text_mask("a\nb", 20), text_mask("a b", 20))


def test_unknown_letters_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "openyolov5"):
        text_mask("\U00013000 0.5", 20)  # an Egyptian hieroglyph
        text_mask("\U00013000 0.6", 20)
    assert caplog.text.count("No font on this machine has") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("व्यक्ति", "vyakti"), ("कार", "kaara"), ("ひと", "hito"), ("사람", "saram"), ("人", "[4eba]"), ("නa", "dantajaa")],
)
def test_spelling_out(text: str, expected: str) -> None:
    assert spelt_out(text, frozenset(text) - {"a"}) == expected


def test_letters_with_a_glyph_are_kept() -> None:
    assert spelt_out("ab人", frozenset("人")) == "ab[4eba]"


@pytest.mark.skipif(not features.check_feature("raqm"), reason="Pillow finds no FriBiDi here to compare with")
@pytest.mark.parametrize("text", ["שלום 0.87", "مرحبا"])
def test_own_ordering_equals_that_of_fribidi(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_fribidi = text_mask(text, 40)
    text_mask.cache_clear()
    monkeypatch.setattr(glyphs.features, "check_feature", lambda name: False)
    ours = text_mask(text, 40)
    overlap = np.minimum(ours, with_fribidi).sum() / with_fribidi.sum(dtype=float)
    assert overlap > 0.9  # strokes may lie a fraction of a pixel apart
