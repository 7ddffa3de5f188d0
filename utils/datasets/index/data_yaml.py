"""Data YAML: the images of each split and the names of the classes."""

# os.path says that there is no file of an impossible name, where pathlib raises an error.
# ruff: noqa: PTH110, PTH112, PTH113

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.yaml_files import read_yaml
from utils.datasets.index.listing import is_path, iter_files
from utils.datasets.index.semantic_yaml import SPLITS, SemanticSpec, parse_names, parse_semantic
from utils.datasets.prepare.archives import ARCHIVE_SUFFIXES, download_data, find_work_folder, unpack_data_yaml
from utils.datasets.prepare.registry import is_unfinished, prepare_data

DATASETS_PREFIX = "../datasets/"
JOINT_KEYS = ("detection", "semantic")  # of a joint data YAML


@dataclass(frozen=True)
class SplitSource:
    """Source of one split.

    Attributes:
        split: its key in the YAML.
        paths: folders, list files, glob patterns or single images, absolute if they exist.
        annotations: COCO instances JSON that replaces the label files, or None.
        missing: the paths that do not exist, as written in the YAML.
    """

    split: str
    paths: tuple[Path, ...]
    annotations: Path | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSpec:
    """A validated data YAML.

    Attributes:
        path: the YAML file.
        root: folder that relative paths start from.
        names: class names by number, 0 to num_classes - 1.
        splits: sources of the splits in the YAML.
        raw: the YAML as read.
        semantic: classes and paths of the semantic masks, or None.
        semantic_set: the data set of the semantic masks if they belong to other images: the YAML has the keys
            `detection` and `semantic`, or its `semantic` block has its own splits. The other attributes then describe
            the detection set. None if the semantic masks belong to the same images.
    """

    path: Path
    root: Path
    names: dict[int, str]
    splits: dict[str, SplitSource]
    raw: Mapping[str, Any] = field(default_factory=dict)
    semantic: SemanticSpec | None = None
    semantic_set: DataSpec | None = None

    @property
    def num_classes(self) -> int:
        return len(self.names)


def load_spec(data: str | Path, *, prepare: bool = True) -> DataSpec:
    """Read a data YAML and download or generate its data if train or val is missing and the YAML has `download`.

    Args:
        data: a file, or a file name to be found under data/.
        prepare: allow the download; otherwise a missing split is an error.

    Raises:
        InputError: file, key, problem and remedy.
    """
    spec = read_spec(data)
    if spec.semantic_set is not None:
        spec = replace(spec, semantic_set=_prepare(spec.semantic_set, prepare=prepare))
    return _prepare(spec, prepare=prepare)


def load_mapping(raw: Mapping[str, Any], *, prepare: bool = True) -> DataSpec:
    """As `load_spec`, for the content of a data YAML whose relative paths start from the working directory."""
    return _prepare(_read_single(Path.cwd() / "data settings", raw), prepare=prepare)


def _prepare(spec: DataSpec, *, prepare: bool) -> DataSpec:
    """The data set with its images on disk, see `load_spec`."""
    if not _list_missing(spec) and not (prepare and is_unfinished(spec.root)):
        return spec
    path, root, raw = spec.path, spec.root, spec.raw
    if prepare and raw.get("download"):
        prepare_data(raw["download"], root, raw, source=path)
        spec = replace(spec, splits=_find_splits(raw, root, path))
    for split, entry in _list_missing(spec):
        hint = "" if raw.get("download") else ", or add the key download"
        raise InputError(f"{path}: {split}: {entry!r} not found under {root}; correct {split} or path{hint}")
    return spec


def read_spec(data: str | Path) -> DataSpec:
    """Read a data YAML whether or not its images exist.

    Raises:
        InputError: file, key, problem and remedy.
    """
    path = find_data_yaml(data)
    raw = _read_mapping(path)
    return _read_joint(path, raw) if "detection" in raw else _read_single(path, raw)


def _read_single(path: Path, raw: Mapping[str, Any]) -> DataSpec:
    """The data set of a YAML that is not joint."""
    block: Any = raw.get("semantic")
    semantic_names = isinstance(block, dict) and block.get("names") is not None
    for key in ("train", "val", "names"):
        if raw.get(key) is None and not (key == "names" and semantic_names):
            raise InputError(f"{path}: key {key!r} is missing; a data YAML needs train, val and names")
    names = _parse_names(raw, path) if raw.get("names") is not None else {}
    semantic = None if block is None else parse_semantic(block, source=path, names=names or None)
    names = names or dict(semantic.classes.names)  # type: ignore[union-attr]
    if raw.get("path") not in (None, "") and type(raw["path"]) is not int and not is_path(raw["path"]):
        raise InputError(f"{path}: path: {raw['path']!r} is not a folder; only train, val and test may be lists")
    root = _find_root(raw, path)
    spec = DataSpec(path, root, names, _find_splits(raw, root, path), raw, semantic)
    return spec if semantic is None else replace(spec, semantic_set=_read_semantic_set(spec, semantic, block))


def _read_semantic_set(spec: DataSpec, semantic: SemanticSpec, block: Mapping[str, Any]) -> DataSpec | None:
    """The data set of a `semantic` block with its own splits, below the same root; None if it has no splits."""
    entries = {split: block[split] for split in SPLITS if block.get(split) is not None}
    if not entries:
        return None
    if missing := [split for split in ("train", "val") if split not in entries]:
        raise InputError(
            f"{spec.path}: semantic: {missing[0]} is missing; semantic masks of other images need train and val"
        )
    raw = {**{key: value for key, value in spec.raw.items() if key not in SPLITS}, **entries}
    splits = _find_splits(entries, spec.root, spec.path)
    return DataSpec(spec.path, spec.root, dict(semantic.classes.names), splits, raw, semantic)


def _read_joint(path: Path, raw: Mapping[str, Any]) -> DataSpec:
    """The detection set of a joint YAML, with the other one as its `semantic_set`."""
    members = {}
    for key in JOINT_KEYS:
        file = _find_member(path, raw, key)
        member = _read_mapping(file)
        if "detection" in member:
            raise InputError(f"{path}: {key}: {file} is a joint data YAML itself; give the data YAML of one set")
        members[key] = _read_single(file, member)
    detection, semantic = members["detection"], members["semantic"]
    semantic = semantic.semantic_set or semantic
    if semantic.semantic is None:
        raise InputError(f"{path}: semantic: {semantic.path} has no key semantic, which describes its masks")
    return replace(detection, semantic=semantic.semantic, semantic_set=semantic)


def _find_member(path: Path, raw: Mapping[str, Any], key: str) -> Path:
    """The YAML file of a member of a joint YAML: next to it, else as for `--data`."""
    member = raw.get(key)
    if not is_path(member):
        raise InputError(f"{path}: {key}: {member!r}; a joint data YAML names two others: detection and semantic")
    sibling = path.parent / expand_user(member)
    try:
        return sibling.resolve() if sibling.is_file() else find_data_yaml(member)
    except InputError as error:
        raise InputError(f"{path}: {key}: {member!r} not found next to it or elsewhere ({error})") from error


def find_data_yaml(data: str | Path, *, flag: str = "--data") -> Path:
    """Find a YAML file, or an archive with one: as given, else in the folder data/.

    The file at an http(s) URL is downloaded into the datasets folder, once.

    Raises:
        InputError: no file, several files of that name, or a failed download.
    """
    is_url = str(data).lower().startswith(("http://", "https://"))
    given = download_data(str(data)) if is_url else expand_user(data)
    for candidate in (given, ROOT / given, ROOT / "data" / given):
        if os.path.isfile(candidate):
            archived = candidate.name.lower().endswith(ARCHIVE_SUFFIXES)
            return (unpack_data_yaml(candidate) if archived else candidate).resolve()
    is_name = given.name and given.name == str(given)
    known = sorted((ROOT / "data").rglob("*")) if is_name else ()
    matches = [file for file in known if file.name == given.name and file.is_file()]
    if len(matches) > 1:
        raise InputError(f"{flag} {data}: several files of that name: {', '.join(map(str, matches))}; give the path")
    if not matches:
        raise InputError(f"{flag} {data}: no such file, neither as given nor under {ROOT / 'data'}")
    return matches[0]


def _read_mapping(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    if raw is None:
        raise InputError(f"{path}: the file is empty; a data YAML needs train, val and names")
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a mapping with train, val and names, got {type(raw).__name__}")
    return raw


def _parse_names(raw: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Class names from a list or an int-keyed mapping; InputError if `nc` differs."""
    names = parse_names(raw["names"], f"{path}: names")
    if raw.get("nc") is not None and raw["nc"] != len(names):
        raise InputError(f"{path}: nc: {raw['nc']!r} contradicts the {len(names)} names; delete nc or correct names")
    return names


def _find_root(raw: Mapping[str, Any], path: Path) -> Path:
    """The root folder: the first candidate that contains val, else that exists, else where to create it.

    Candidates are next to the YAML, in the repository, in the working folder; last the YAML's folder itself, as in
    archives. YOLOv5_DATASETS_DIR replaces ../datasets.
    """
    written = str(raw.get("path") or "")
    bases = (path.parent, find_work_folder(), Path.cwd())
    candidates = [Path(os.path.normpath(base / expand_user(written))) for base in bases]
    new = candidates[1] if path.is_relative_to(ROOT) else candidates[0]
    folder = os.getenv("YOLOv5_DATASETS_DIR")
    if folder and written.startswith(DATASETS_PREFIX):
        new = expand_user(folder).absolute() / written.removeprefix(DATASETS_PREFIX)
        candidates.insert(0, new)
    for root in (*candidates, path.parent):
        missing = _find_split("val", raw["val"], root, path).missing
        if not missing:
            return root
        if all(map(os.path.isabs, missing)):  # in no other folder either
            break
    return next((root for root in candidates if written and os.path.isdir(root)), new)


def _find_splits(raw: Mapping[str, Any], root: Path, path: Path) -> dict[str, SplitSource]:
    return {split: _find_split(split, raw[split], root, path) for split in SPLITS if raw.get(split) is not None}


def _find_split(split: str, value: Any, root: Path, path: Path) -> SplitSource:
    """Resolve one split's value: a string, a list of strings, or a mapping with `images` and `annotations`."""
    annotations = None
    if isinstance(value, dict):
        if set(value) != {"images", "annotations"}:
            keys = ", ".join(map(str, value))
            raise InputError(f"{path}: {split}: a mapping needs the keys images and annotations, got {keys}")
        annotations = value["annotations"]
        if not is_path(annotations):
            raise InputError(f"{path}: {split}: annotations: {annotations!r} is not the path of a JSON file")
    images = value["images"] if isinstance(value, dict) else value
    entries = images if isinstance(images, list) else [images]
    files = entries if annotations is None else [*entries, annotations]
    if not entries or not all(map(is_path, files)):
        raise InputError(f"{path}: {split}: {value!r} is neither a path nor a list of paths")
    try:
        existing = [_find_path(file, root) for file in files]
    except InputError as error:
        raise InputError(f"{path}: {split}: {error}") from error
    paths = [path or root / file for path, file in zip(existing, files, strict=True)]
    missing = tuple(file for path, file in zip(existing, files, strict=True) if path is None)
    return SplitSource(split, tuple(paths[: len(entries)]), None if annotations is None else paths[-1], missing)


def _find_path(entry: str, root: Path) -> Path | None:
    """An existing file, folder or matching pattern, if need be without a leading ../."""
    candidates = [entry, entry.removeprefix("../")] if entry.startswith("../") else [entry]
    for text in candidates:
        path = Path(os.path.normpath(root / expand_user(text)))
        if os.path.exists(path) or (glob.has_magic(text) and next(iter_files(path), None)):
            return path
    return None


def _list_missing(spec: DataSpec) -> list[tuple[str, str]]:
    """Split and entry of each missing path of train and val; test is only needed when it is used."""
    return [(split, entry) for split in ("train", "val") for entry in spec.splits[split].missing]
