"""The data YAML: where the images of each split are and what the classes are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.datasets.index.semantic_yaml import SemanticSpec, parse_names, parse_semantic
from utils.datasets.prepare.archives import ARCHIVE_SUFFIXES, fetched_data, is_url, yaml_of_archive
from utils.datasets.prepare.registry import is_unfinished, prepare_data

DATASETS_PREFIX = "../datasets/"
SPLITS = ("train", "val", "test")
MEMBERS = ("detection", "semantic")  # keys of a joint data YAML


@dataclass(frozen=True)
class SplitSource:
    """Where one split comes from.

    Attributes:
        split: its key in the YAML.
        places: folders, list files, glob patterns or single images, absolute where they exist.
        annotations: COCO instances JSON that replaces the label files, or None.
        missing: the places that do not exist, as written in the YAML.
    """

    split: str
    places: tuple[Path, ...]
    annotations: Path | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSpec:
    """A data YAML, checked.

    Attributes:
        path: the YAML file.
        root: folder that relative places start from.
        names: class names by number, 0 to num_classes - 1.
        splits: the sources of those splits that the YAML names.
        raw: the YAML as read.
        semantic: classes and places of the semantic masks, or None.
        semantic_set: the set that the semantic masks belong to, if it is another one: the YAML names two by the keys
            `detection` and `semantic`, or the block `semantic` has splits of its own; all else is then of the set for
            detection. None: the semantic masks are of the same images.
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
    """`read_spec`; makes or downloads the data if the YAML names a way to and train or val is not there yet.

    Args:
        data: a file, or a bare name to be found under data/.
        prepare: whether to download; without it a missing split is an error at once.

    Raises:
        InputError: what is wrong in which file at which key, and the remedy.
    """
    spec = read_spec(data)
    if spec.semantic_set is not None:
        spec = replace(spec, semantic_set=_prepared(spec.semantic_set, prepare=prepare))
    return _prepared(spec, prepare=prepare)


def _prepared(spec: DataSpec, *, prepare: bool) -> DataSpec:
    """The set with its images in place, see `load_spec`."""
    if not _missing(spec) and not (prepare and is_unfinished(spec.root)):
        return spec
    path, root, raw = spec.path, spec.root, spec.raw
    if prepare and raw.get("download"):
        prepare_data(raw["download"], root, raw, source=path)
        spec = replace(spec, splits=_find_splits(raw, root, path))
    for split, place in _missing(spec):
        hint = "" if raw.get("download") else ", or add a key download"
        raise InputError(f"{path}: {split}: {place!r} not found under {root}; correct {split} or path{hint}")
    return spec


def read_spec(data: str | Path) -> DataSpec:
    """Read a data YAML whether or not its images are there.

    Raises:
        InputError: what is wrong in which file at which key, and the remedy.
    """
    path = find_data_yaml(data)
    raw = _read_mapping(path)
    return _read_joint(path, raw) if "detection" in raw else _read_one(path, raw)


def _read_one(path: Path, raw: Mapping[str, Any]) -> DataSpec:
    """The set that a YAML with images of its own describes."""
    block: Any = raw.get("semantic")
    own_names = isinstance(block, dict) and block.get("names") is not None  # of a set of semantic masks without boxes
    for key in ("train", "val", "names"):
        if raw.get(key) is None and not (key == "names" and own_names):
            raise InputError(f"{path}: key {key!r} is missing; a data YAML needs train, val and names")
    names = _parse_names(raw, path) if raw.get("names") is not None else {}
    semantic = None if block is None else parse_semantic(block, source=path, names=names or None)
    names = names or dict(semantic.classes.names)  # type: ignore[union-attr]
    if isinstance(raw.get("path"), list | dict):
        raise InputError(f"{path}: path: {raw['path']!r} is not a folder; give one, train and val may be lists")
    root = _find_root(raw, path)
    spec = DataSpec(path, root, names, _find_splits(raw, root, path), raw, semantic)
    return spec if semantic is None else replace(spec, semantic_set=_own_images(spec, semantic, block))


def _own_images(spec: DataSpec, semantic: SemanticSpec, block: Mapping[str, Any]) -> DataSpec | None:
    """The set that the block `semantic` describes by splits of its own, below the same root; None if it has none."""
    own = {split: block[split] for split in SPLITS if block.get(split) is not None}
    if not own:
        return None
    if missing := [split for split in ("train", "val") if split not in own]:
        raise InputError(
            f"{spec.path}: semantic: {missing[0]} is missing; semantic masks of other images need both splits"
        )
    raw = {**{key: value for key, value in spec.raw.items() if key not in SPLITS}, **own}
    splits = _find_splits(own, spec.root, spec.path)
    return DataSpec(spec.path, spec.root, dict(semantic.classes.names), splits, raw, semantic)


def _read_joint(path: Path, raw: Mapping[str, Any]) -> DataSpec:
    """The set for detection of a YAML that names two, with the other one as its `semantic_set`."""
    members = {}
    for key in MEMBERS:
        file = _find_member(path, raw, key)
        member = _read_mapping(file)
        if "detection" in member:
            raise InputError(f"{path}: {key}: {file} names two sets itself; name the data YAML of one set")
        members[key] = _read_one(file, member)
    detection, semantic = members["detection"], members["semantic"]
    semantic = semantic.semantic_set or semantic
    if semantic.semantic is None:
        raise InputError(f"{path}: semantic: {semantic.path} has no key semantic, so nothing tells where its masks are")
    return replace(detection, semantic=semantic.semantic, semantic_set=semantic)


def _find_member(path: Path, raw: Mapping[str, Any], key: str) -> Path:
    """The YAML of one of the two sets of a joint one: beside it, else as `--data` would find it."""
    member = raw.get(key)
    if not isinstance(member, str) or not member:
        raise InputError(f"{path}: {key}: {member!r}; a joint data YAML names two others: detection and semantic")
    beside = path.parent / expand_user(member)
    try:
        return beside.resolve() if beside.is_file() else find_data_yaml(member)
    except InputError as error:
        raise InputError(f"{path}: {key}: {member!r} is not beside it, nor anywhere else ({error})") from error


def find_data_yaml(data: str | Path, *, flag: str = "--data") -> Path:
    """The YAML file that `flag` means: as given (a YAML, or an archive with one), else in the folder data/.

    An http(s) address of either is fetched into the datasets folder, once.

    Raises:
        InputError: there is none, or several of that name, or the address does not give it.
    """
    if str(data).startswith("clearml://"):
        raise InputError(f"{flag} {data}: ClearML's sets are not fetched here; get it by clearml-data, give its YAML")
    given = fetched_data(str(data)) if is_url(data) else expand_user(data)
    for candidate in (given, ROOT / given, ROOT / "data" / given):
        if candidate.is_file():
            archived = candidate.name.lower().endswith(ARCHIVE_SUFFIXES)
            return (yaml_of_archive(candidate) if archived else candidate).resolve()
    found = sorted((ROOT / "data").rglob(given.name)) if given.name == str(given) and given.name else []
    found = [file for file in found if file.is_file()]
    if len(found) > 1:
        raise InputError(f"{flag} {data}: several files of that name: {', '.join(map(str, found))}; give the path")
    if not found:
        raise InputError(f"{flag} {data}: no such file, neither as given nor under {ROOT / 'data'}")
    return found[0]


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from error
    if raw is None:
        raise InputError(f"{path}: the file is empty; a data YAML needs train, val and names")
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected keys such as train, val and names, found {type(raw).__name__}")
    return raw


def _parse_names(raw: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Class names from a list or an int-keyed map; `nc`, if given, has to agree."""
    names = parse_names(raw["names"], f"{path}: names")
    if raw.get("nc") is not None and raw["nc"] != len(names):
        raise InputError(f"{path}: nc: {raw['nc']!r} contradicts the {len(names)} names; delete nc or mend names")
    return names


def _find_root(raw: Mapping[str, Any], path: Path) -> Path:
    """The folder that `path` means: the first candidate that holds val, else that exists, else where to create it."""
    written = str(raw.get("path") or "")
    candidates = _root_candidates(written, path)
    for root in candidates:
        if not _find_split("val", raw["val"], root, path).missing:
            return root
    if written:
        for root in candidates[:-1]:
            if root.is_dir():
                return root
    in_repository = path.is_relative_to(ROOT) and not _moved_by_environment(written)
    return Path(os.path.normpath(ROOT / expand_user(written))) if in_repository else candidates[0]


def _root_candidates(written: str, path: Path) -> list[Path]:
    """Beside the YAML, in the repository, in the working folder; last the YAML's folder itself, as in archives.

    YOLOv5_DATASETS_DIR stands in for ../datasets.
    """
    given = expand_user(written)
    bases = (path.parent, ROOT, Path.cwd())
    candidates = [*(Path(os.path.normpath(base / given)) for base in bases), path.parent]
    moved = _moved_by_environment(written)
    return candidates if moved is None else [moved, *candidates]


def _moved_by_environment(written: str) -> Path | None:
    folder = os.getenv("YOLOv5_DATASETS_DIR")
    if not folder or not written.startswith(DATASETS_PREFIX):
        return None
    return expand_user(folder).absolute() / written.removeprefix(DATASETS_PREFIX)


def _find_splits(raw: Mapping[str, Any], root: Path, path: Path) -> dict[str, SplitSource]:
    return {split: _find_split(split, raw[split], root, path) for split in SPLITS if raw.get(split) is not None}


def _find_split(split: str, value: Any, root: Path, path: Path) -> SplitSource:
    """Resolve one split's value: text, list of texts, or a map of `images` and `annotations`."""
    annotations = None
    if isinstance(value, dict):
        if set(value) != {"images", "annotations"}:
            found = ", ".join(map(str, value))
            raise InputError(f"{path}: {split}: a map needs the keys images and annotations, found {found}")
        annotations, value = value["annotations"], value["images"]
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        raise InputError(f"{path}: {split}: {value!r} is neither a path nor a list of paths")
    places, missing = [], []
    for entry in entries:
        place = _find_place(entry, root)
        places.append(place or root / entry)
        if place is None:
            missing.append(entry)
    if annotations is None:
        return SplitSource(split, tuple(places), None, tuple(missing))
    json_file = _find_place(str(annotations), root)
    if json_file is None:
        missing.append(str(annotations))
    return SplitSource(split, tuple(places), json_file or root / str(annotations), tuple(missing))


def _find_place(entry: str, root: Path) -> Path | None:
    """An existing file, folder or matching pattern; a leading ../ that leads nowhere is tried without it."""
    tries = [entry, entry.removeprefix("../")] if entry.startswith("../") else [entry]
    for text in tries:
        place = Path(os.path.normpath(root / expand_user(text)))
        if place.exists() or (glob.has_magic(text) and glob.glob(str(place), recursive=True)):  # noqa: PTH207
            return place
    return None


def _missing(spec: DataSpec) -> list[tuple[str, str]]:
    """Split and place of what is not there; the test split is only looked for when it is used."""
    return [(name, place) for name in ("train", "val") for place in spec.splits[name].missing]
