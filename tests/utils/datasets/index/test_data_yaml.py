from __future__ import annotations

import re
from pathlib import Path

import pytest
from loopback import IMAGE, write_zip

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.core.yaml_files import read_yaml
from utils.datasets.index import data_yaml
from utils.datasets.index.data_yaml import find_data_yaml, load_spec, read_spec
from utils.datasets.index.labels import load_index

BASE = "train: images/train\nval: images/val\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    return tmp_path


def write(root: Path, text: str, name: str = "data.yaml") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("names: [cat, dog]", id="list"),
        pytest.param("names: {1: dog, 0: cat}", id="map"),
        pytest.param("nc: 2\nnames: {'0': cat, '1': dog}", id="text keys and nc"),
    ],
)
def test_names_as_list_or_map(root: Path, names: str) -> None:
    spec = load_spec(write(root, BASE + names))
    assert spec.names == {0: "cat", 1: "dog"}
    assert list(spec.names) == [0, 1]
    assert spec.num_classes == 2
    assert spec.root == root
    assert spec.splits["train"].paths == (root / "images" / "train",)
    assert set(spec.splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnames: [a]", "key 'val' is missing"),
        (BASE, "key 'names' is missing"),
        (BASE + "names: [a]\nnc: 2", "nc: 2 contradicts the 1 names"),
        (BASE + "names: {0: a, 2: b}", r"must run from 0 to 1, got \[0, 2\]"),
        (BASE + "names: {1000000000: a}", r"keys must be class numbers, got \[1000000000\]"),
        (BASE + "names: {-1: a}", r"must run from 0 to 0, got \[-1\]"),
        (BASE + "names: {1.0e+9: a}", "keys must be class numbers"),
        (BASE + "names:\n  ? '" + "9" * 5000 + "'\n  : a", "keys must be class numbers"),
        (BASE + 'names: ["a\\nb"]', r"the name of class 0 is 'a\\nb'; remove its control characters"),
        (BASE + 'names: ["\\ud800"]', r"the name of class 0 is '\\ud800'; remove its control characters"),
        (BASE + "names: [!!binary aGk=]", "the name of class 0 is b'hi', which is not a string"),
        (BASE + "names: [a]\nnc: .nan", "nc: nan contradicts the 1 names"),
        (BASE + "names: [a]\nnc: 1000000000", "nc: 1000000000 contradicts"),
        ("path: 1.5\n" + BASE + "names: [a]", "path: 1.5 is not a folder"),
        (
            "train: {images: images/train, annotations: [1]}\nval: images/val\nnames: [a]",
            r"annotations: \[1\] is not the",
        ),
        ('train: "~\\0x"\nval: images/val\nnames: [a]', "is neither a path nor a list of paths"),
        ('train: "\\ud800"\nval: images/val\nnames: [a]', "is neither a path nor a list of paths"),
        (f"train: {'x' * 5000}\nval: images/val\nnames: [a]", "is neither a path nor a list of paths"),
        (f"train: {'x' * 300}\nval: images/val\nnames: [a]", "train: 'x+' not found under"),
        (f"train: images/train\nval: {'x/' * 2000}\nnames: [a]", "val: 'x/.*' not found under"),
        (BASE + "names: {a: b}", "keys must be class numbers"),
        (BASE + "names: a", "neither a list nor a map"),
        (BASE + "names: []", "neither a list nor a map"),
        ("train: 3\nval: images/val\nnames: [a]", "train: 3 is neither a path nor a list of paths"),
        ("train: {images: images/train}\nval: images/val\nnames: [a]", "needs the keys images and annotations"),
        ("- a\n- b", "expected a mapping with train"),
        ("", "the file is empty"),
        ("train: []\nval: images/val\nnames: [a]", r"train: \[\] is neither a path nor a list of paths"),
        ("train: {1: a, b: c}\nval: images/val\nnames: [a]", "needs the keys images and annotations, got 1, b"),
        ("train: ~nobody-of-this-name/x\nval: images/val\nnames: [a]", "train: '~nobody-of-this-name/x' not found"),
        ("path: [a]\n" + BASE + "names: [a]", r"path: \['a'\] is not a folder"),
        (BASE + "names: [a, null]", "names: the name of class 1 is None"),
        (BASE + "names: [[a, b]]", r"names: the name of class 0 is \['a', 'b'\]"),
        (BASE + "names: {0.5: a, 1: b}", "keys must be class numbers"),
        ("path: 2020-99-99\n" + BASE + "names: [a]", ":1: not valid YAML: '2020-99-99' is not a valid timestamp"),
        ("train: [a\nval: b", r"data\.yaml:2: not valid YAML"),
        ("train: images/nowhere\nval: images/val\nnames: [a]", "train: 'images/nowhere' not found under .*add the key"),
    ],
)
def test_mistakes_are_reported_with_their_location(root: Path, text: str, message: str) -> None:
    path = write(root, text)
    with pytest.raises(InputError, match=message) as caught:
        load_spec(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


ODD_VALUES = (
    *(
        None,
        True,
        5,
        -1,
        10**9,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "a\nb",
        "a\0b",
        "~\0",
        "x" * 5000,
        "/" * 5000,
    ),
    *(
        "~nobody-of-this-name/x",
        "../../..",
        "**/*",
        "[",
        b"\xff",
        [],
        {},
        [1, 2],
        [[1]],
        ["a"] * 5000,
        {"a": 1},
        {0: {0: {}}},
    ),
    *(
        {-1: "a"},
        {10**9: "a"},
        {1.5: "a"},
        {True: "a"},
        dict.fromkeys(range(5000), "a"),
        {"images": 5, "annotations": [1]},
    ),
)


@pytest.mark.parametrize("name", ["coco128", "VOC-semantic", "cityscapes-semantic", "shapes"])
def test_odd_values_of_the_projects_yamls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    (tmp_path / "odd.yaml").touch()
    raw = read_yaml(ROOT / "data" / f"{name}.yaml")
    monkeypatch.setattr(data_yaml, "read_yaml", lambda path: raw)
    blocks = [raw, raw["semantic"]] if "semantic" in raw else [raw]
    refused = 0
    for block in blocks:
        for key in (*block, "nc", "test", "detection", "kpt_shape"):
            original = block.get(key)
            for value in ODD_VALUES:
                block[key] = value
                try:
                    read_spec(tmp_path / "odd.yaml")
                except InputError as error:
                    refused += 1
                    assert str(error).startswith((str(tmp_path / "odd.yaml"), "--data")) and len(str(error)) < 900
            block[key] = original
            if original is None:
                del block[key]
    assert refused > 50


def test_path_is_relative_to_the_yaml_first(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "set" / "images" / "val").mkdir(parents=True)
    (elsewhere / "set" / "images" / "train").mkdir()
    path = write(tmp_path / "yamls", "path: set\n" + BASE + "names: [a]")
    assert load_spec(path).root == elsewhere / "set"
    for split in ("train", "val"):
        (tmp_path / "yamls" / "set" / "images" / split).mkdir(parents=True)
    assert load_spec(path).root == tmp_path / "yamls" / "set"


def test_environment_moves_the_datasets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "big disk"))
    for split in ("train", "val"):
        (tmp_path / "big disk" / "mine" / "images" / split).mkdir(parents=True)
    spec = load_spec(write(tmp_path, "path: ../datasets/mine\n" + BASE + "names: [a]"))
    assert spec.root == tmp_path / "big disk" / "mine"


def test_a_leading_dotdot_is_tried_without_it(root: Path) -> None:
    spec = load_spec(write(root, "train: ../images/train\nval: ../images/val\nnames: [a]"))
    assert spec.splits["val"].paths == (root / "images" / "val",)


def test_lists_patterns_and_annotations(root: Path) -> None:
    (root / "instances.json").write_text("{}")
    (root / "images" / "val" / "a.jpg").write_bytes(b"x")
    text = (
        "train: {images: [images/train, images/val], annotations: instances.json}\n"
        "val: images/v*/*.jpg\ntest: images/absent\nnames: [a]"
    )
    spec = load_spec(write(root, text))
    assert spec.splits["train"].paths == (root / "images" / "train", root / "images" / "val")
    assert spec.splits["train"].annotations == root / "instances.json"
    assert spec.splits["val"].paths == (root / "images" / "v*" / "*.jpg",)
    assert spec.splits["test"].missing == ("images/absent",)


def test_the_whole_disk_is_refused_with_its_split(root: Path) -> None:
    with pytest.raises(InputError, match=r"data\.yaml: train: /\*\*: this is the whole disk"):
        read_spec(write(root, "train: /**\nval: images/val\nnames: [a]"))
    spec = read_spec(write(root, "train: /\nval: images/val\nnames: [a]"))
    with pytest.raises(InputError, match=r"data\.yaml: train: /: this is the whole disk"):
        load_index(spec, "train")


def test_a_pattern_without_files_is_missing(root: Path) -> None:
    spec = read_spec(write(root, f"train: images/*/*.jpg\nval: {root}/**/x.jpg\nnames: [a]"))
    assert [source.missing for source in spec.splits.values()] == [("images/*/*.jpg",), (f"{root}/**/x.jpg",)]


@pytest.mark.parametrize("name", ["hyps", "", "nowhere.yaml", "x" * 5000, "a**[.yaml", ".."])
def test_missing_data_yamls(name: str) -> None:
    with pytest.raises(InputError, match=f"--data {re.escape(name[:500])}.*no such file"):
        find_data_yaml(name)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that fetched sets are kept in."""
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def test_an_archive_url_is_downloaded_once(served: tuple[Path, str], datasets: Path) -> None:
    folder, address = served
    text = (BASE + "names: [a]").encode()
    write_zip(folder / "my set.zip", {"set.yaml": text, "images/train/a.jpg": IMAGE, "images/val/b.jpg": IMAGE})
    url = f"{address}/my%20set.zip?raw=1"
    spec = load_spec(url)
    assert spec.path == datasets / "my set" / "set.yaml"
    assert spec.splits["val"].paths == (datasets / "my set" / "images/val",)
    (folder / "my set.zip").unlink()
    assert load_spec(url) == spec
    with pytest.raises(InputError, match=r"my set\.zip exists and is from http.*raw=1; remove it, or use --data"):
        load_spec(f"{address}/my%20set.zip")


def test_a_yaml_url(served: tuple[Path, str], datasets: Path) -> None:
    (served[0] / "far.yaml").write_text("path: ../datasets/far\n" + BASE + "names: [a]")
    for split in ("train", "val"):
        (datasets / "far/images" / split).mkdir(parents=True)
    spec = load_spec(f"{served[1]}/far.yaml")
    assert (spec.path, spec.root) == (datasets / "far.yaml", datasets / "far")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.zip", r"none\.zip: the server answered 404"),
        ("set.txt", "set.txt: neither a YAML file nor an"),
    ],
)
def test_invalid_urls(served: tuple[Path, str], datasets: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_data_yaml(f"{served[1]}/{path}")
    assert not (datasets / path).exists()


def test_bare_names_are_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_data_yaml("coco.yaml") == ROOT / "data" / "coco.yaml"
    assert find_data_yaml("data/coco.yaml") == ROOT / "data" / "coco.yaml"
    with pytest.raises(InputError, match=r"--data nowhere\.yaml: no such file"):
        find_data_yaml("nowhere.yaml")


@pytest.mark.parametrize(
    ("download", "shown"),
    [
        ("bash data/scripts/get_coco.sh", "bash data/scripts/get_coco.sh"),
        ("|\n  import os\n  os.mkdir('pwned')\n", "import os"),
        ("builtin:nothing", "builtin:nothing"),
        ("[builtin:shapes, 'rm -r x']", "rm -r x"),
        ("ftp://example.org/a.zip", "ftp://example.org/a.zip"),
    ],
)
def test_commands_and_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, BASE + f"names: [a]\ndownload: {download}")
    with pytest.raises(InputError, match="never executed") as caught:
        load_spec(path)
    assert repr(shown) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["data.yaml"]


def test_download_is_ignored_if_the_data_exists(root: Path) -> None:
    assert load_spec(write(root, BASE + "names: [a]\ndownload: bash x.sh")).num_classes == 1


@pytest.mark.parametrize(("name", "count"), [("coco", 80), ("coco128", 80), ("VOC", 20), ("shapes", 5)])
def test_the_projects_own_yamls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    root = tmp_path / name
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
    for folder in ("train2017", "train2007", "train2012", "val2007", "val2012", "test2007"):
        (root / "images" / folder).mkdir()
    for listing in ("train2017.txt", "val2017.txt"):
        (root / listing).write_text("")
    spec = load_spec(f"{name}.yaml", prepare=False)
    assert spec.root == root
    assert spec.num_classes == len(set(spec.names.values())) == count
