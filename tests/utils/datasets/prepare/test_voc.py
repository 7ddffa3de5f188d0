from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.prepare.voc import MAX_BYTES, parse_voc_annotation, parse_xml, prepare_voc

XML = """<annotation><size><width>100</width><height>50</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox>
 <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
<object><name>dog</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
<object><name>unicorn</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>100</xmax><ymax>50</ymax></bndbox></object>
</annotation>"""


def test_parse_voc_annotation(tmp_path: Path) -> None:
    """xmin 11 to xmax 30, counted from 1 and inclusive, are the 20 pixels from 10 to 30: center 20 of 100."""
    (tmp_path / "a.xml").write_text(XML)
    file = tmp_path / "a.xml"
    labels, skipped = parse_voc_annotation(parse_xml(file), file, {"cat": 0, "dog": 1})
    assert labels.rows.tolist() == np.array([[1, 0.2, 0.2, 0.2, 0.2], [0, 0.5, 0.5, 1, 1]], np.float32).tolist()
    assert labels.locations == [f"{tmp_path / 'a.xml'}: object {number}" for number in (0, 3)]
    assert skipped == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<size>", r"a\.xml:2: not valid XML"),
        ("<annotation/>", r"a\.xml: not a VOC annotation \(<size/height> is missing\)"),
        (XML.replace("<xmin>11</xmin>", "<xmin>left</xmin>"), "not a VOC annotation"),
        (XML.replace(">100<", ">0<", 1), "not a VOC annotation"),
        (XML.replace(">100<", ">0.5<", 1), "image size is not positive"),
        (XML.replace(">100<", ">nan<", 1), "<size/width> 'nan' is not a number of pixels"),
        (XML.replace("<xmin>11<", f"<xmin>{'9' * 5000}<"), "<bndbox/xmin> '9{40}' is not a number of pixels"),
        (f"<!DOCTYPE a [<!ENTITY big '{'x' * 1000}'>]>{XML.replace('dog', '&big;')}", "it declares the entity 'big'"),
        (f"<!DOCTYPE a [<!ENTITY out SYSTEM 'file:///etc/passwd'>]>{XML}", "it declares the entity 'out'"),
        ("<?xml version='1.0' encoding='utf-7'?><a/>", "not a VOC annotation"),
        ("<a>" * 100_000 + "</a>" * 100_000, "<size/height> is missing"),
        (f"{XML}{' ' * MAX_BYTES}", r"a\.xml: 16,7.* bytes, the limit is 16,777,216"),
    ],
)
def test_invalid_annotations(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        parse_voc_annotation(parse_xml(file), file, {"cat": 0, "dog": 1})


@pytest.mark.parametrize("stem", ["../../../escaped", "/tmp/escaped", "..\\escaped", "C:escaped"])
def test_a_list_cannot_name_files_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    root = tmp_path / "sets" / "VOC"
    kit = root / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (kit / folder).mkdir(parents=True)
    (kit / "ImageSets/Main/train.txt").write_text(f"{stem}\n")
    (root / "escaped.xml").write_text(XML)
    monkeypatch.setattr("utils.datasets.prepare.voc.download_archive", lambda url, folder: None)
    with pytest.raises(InputError, match=r"train\.txt: .*escaped' is not the name of an image; get other archives"):
        prepare_voc(root, {"names": ["cat", "dog"]})
    assert [file.name for file in tmp_path.rglob("*.txt")] == ["train.txt"]
