from __future__ import annotations

import inspect

import pytest

from utils.core.renamed import accept_renamed


@accept_renamed(img_size="imgsz", im="image")
def join(image: str, imgsz: int = 1) -> tuple[str, int]:
    return image, imgsz


def test_former_and_present_names() -> None:
    assert join("a", 2) == join("a", img_size=2) == join(im="a", imgsz=2) == ("a", 2)
    assert list(inspect.signature(join).parameters) == ["image", "imgsz"]


def test_both_names_are_an_error() -> None:
    with pytest.raises(TypeError, match="img_size is the former name of imgsz; give one"):
        join("a", imgsz=1, img_size=2)
    with pytest.raises(TypeError, match="multiple values"):
        join("a", im="b")
