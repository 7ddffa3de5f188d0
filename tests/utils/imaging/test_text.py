from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import features

from utils.imaging import text as glyphs
from utils.imaging.text import is_right_to_left, text_mask

CACHED = (glyphs.text_mask, glyphs._opencv_font, glyphs._opencv_has, glyphs._find_font, glyphs._warn)


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
    monkeypatch.setattr(glyphs, "_draw_opencv", lambda *_: pytest.fail("drawn by OpenCV"))
    monkeypatch.setattr(glyphs, "_opencv_has", lambda char: char == " ")
    assert text_mask(text, 20).max() > 200


def test_every_script_is_drawn_before_opencv_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    masks = [text_mask(text, 20) for text in ("person", "человек", "шар", "人")]
    assert all(mask.max() > 200 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == len(masks)


def test_mask_height_and_width() -> None:
    small, large = text_mask("Hg", 10), text_mask("Hg", 40)
    assert small.shape[0] == 13
    assert large.shape[0] == 52
    assert 3 * small.shape[1] < large.shape[1] < 5 * small.shape[1]
    assert large[:, 0].any()
    assert large[:, -1].any()


def test_accents_and_descenders_are_not_cut() -> None:
    for text in ("Ǻ", "Ṩgj", "שּׁ"):
        canvas = glyphs._draw_text(text, (200, 300), (50, 100), 40)
        assert text_mask(text, 40).sum(dtype=int) == canvas.sum(dtype=int)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b"])
def test_text_without_ink_has_no_width(text: str) -> None:
    assert text_mask(text, 10).shape[1] == 0


def test_control_characters_are_spaces() -> None:
    np.testing.assert_array_equal(text_mask("a\nb", 20), text_mask("a b", 20))


def test_half_of_a_surrogate_pair_is_a_space() -> None:
    np.testing.assert_array_equal(text_mask("a\udcffb", 20), text_mask("a b", 20))


def test_long_text_is_cut() -> None:
    np.testing.assert_array_equal(text_mask("ab" * 10**6, 20), text_mask("ab" * 100, 20))


def test_missing_letters_are_boxes_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "openyolov5"):
        mask = text_mask("\U00013000 0.5", 20)  # an Egyptian hieroglyph
        text_mask("\U00013000 0.6", 20)
    assert caplog.text.count("no font has '\U00013000'") == 1
    assert mask.shape[1] > text_mask("0.5", 20).shape[1]


def test_is_right_to_left() -> None:
    assert is_right_to_left("a ש")
    assert is_right_to_left("سلام")
    assert not is_right_to_left("人 person 0.87 ()")
    assert not is_right_to_left("")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no FriBiDi library here")
def test_right_to_left_text_with_fribidi(monkeypatch: pytest.MonkeyPatch) -> None:
    hebrew, arabic = text_mask("שלום 0.87", 40), text_mask("مرحبا", 40)
    text_mask.cache_clear()
    monkeypatch.setattr(glyphs.features, "check", lambda name: False)
    pytest.importorskip("bidi")
    with_bidi = text_mask("שלום 0.87", 40)
    assert np.minimum(hebrew, with_bidi).sum() / hebrew.sum(dtype=float) > 0.9  # the same up to fractions of a pixel
    assert arabic.shape[1] < text_mask("مرحبا", 40).shape[1]  # only FriBiDi joins Arabic letters


@pytest.mark.parametrize("text", ["שלום", "سلام"])
def test_right_to_left_text_without_fribidi_and_python_bidi(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(glyphs.features, "check", lambda name: False)
    monkeypatch.setitem(sys.modules, "bidi.algorithm", None)
    with caplog.at_level(logging.WARNING, "openyolov5"):
        assert text_mask(text, 20).max() > 200
    assert "pip install python-bidi" in caplog.text
