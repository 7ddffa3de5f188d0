from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.prepare.voc import parse_voc_annotation, parse_xml

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
    ],
)
def test_invalid_annotations(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        parse_voc_annotation(parse_xml(file), file, {"cat": 0, "dog": 1})
