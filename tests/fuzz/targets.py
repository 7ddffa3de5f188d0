"""What is fuzzed: for each kind of file its valid seeds, their mutations, and the code that reads it."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import yaml
from PIL import Image

from models.checkpoint import load_training_state, save_checkpoint
from models.graph import load_model_yaml
from tests.fuzz.mutations import Rng, choose, mutate_bytes, mutate_text, mutate_value
from tests.tiny_jobs import TINY_GRAPH, build_tiny_job, build_tiny_model
from utils.backends.info import ModelInfo
from utils.backends.torchscript import load_torchscript
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.results_csv import format_table, make_row, read_rows
from utils.core.yaml_files import read_yaml
from utils.datasets.formats.labelme import read_labelme
from utils.datasets.formats.supervisely import encode_bitmap, read_supervisely
from utils.datasets.formats.voc import read_voc
from utils.datasets.index.cache import Findings, load_cache, save_cache
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import list_images, verify_split
from utils.datasets.index.semantic_labels import verify_semantic_split
from utils.datasets.index.shared_arrays import PathTable
from utils.datasets.index.verify import read_label_file, verify_image
from utils.datasets.prepare.archives import unpack_archive
from utils.export.pickle import export_pickle
from utils.export.torchscript import export_torchscript
from utils.imaging.read import ImageError, read_image, read_image_size_hw
from utils.imaging.semantic_files import read_semantic_mask
from utils.predict.inputs import load_images
from utils.search.evolve_csv import Generation, read_generations, write_generations
from utils.tasks.networks import build_model, load_checkpoint
from utils.train.settings import restore_config

NAMES = {0: "square", 1: "disc"}
LABELS = "0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.1 0.1\n1 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n"
GENES = {"lr0": 0.01, "momentum": 0.9}


class Target(ABC):
    """A kind of file and its reader.

    Args:
        folder: for the files of this target.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def list_seeds(self) -> list[bytes]:
        """Valid files, each of which `run` accepts."""

    @abstractmethod
    def mutate(self, rng: Rng) -> bytes:
        """Content of a changed file."""

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Read a file of this content as the program does; AssertionError if a wrong result is accepted."""

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the target's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


class TextTarget(Target):
    """A text file."""

    seeds: ClassVar[Sequence[str]]
    name: ClassVar[str]

    def list_seeds(self) -> list[bytes]:
        return [seed.encode() for seed in self.seeds]

    def mutate(self, rng: Rng) -> bytes:
        return mutate_text(choose(self.seeds, rng), rng)

    def run(self, data: bytes) -> None:
        self.read(self.write(self.name, data))

    def read(self, path: Path) -> None:
        raise NotImplementedError


class TreeTarget(Target):
    """A YAML or JSON file: values of its tree change, or else its text."""

    seeds: ClassVar[Sequence[Any]]
    suffix: ClassVar[str] = ".yaml"

    def list_seeds(self) -> list[bytes]:
        return [self.dump(seed).encode() for seed in self.seeds]

    def mutate(self, rng: Rng) -> bytes:
        seed = choose(self.seeds, rng)
        if rng.random() < 0.25:
            return mutate_text(self.dump(seed), rng)
        return self.dump(mutate_value(seed, rng)).encode("utf-8", "surrogatepass")

    def dump(self, value: Any) -> str:
        if self.suffix == ".json":
            return json.dumps(value)
        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))

    def run(self, data: bytes) -> None:
        self.read(self.write(f"file{self.suffix}", data))

    def read(self, path: Path) -> None:
        raise NotImplementedError


# -- settings ----------------------------------------------------------------------------------------------------------


class HypFiles(TreeTarget):
    seeds = (Hyperparameters().to_dict(), {"lr0": "1e-3", "albumentations": {"transform": {"p": 1}}})

    def read(self, path: Path) -> None:
        Hyperparameters.load(path)


class ModelYamls(TreeTarget):
    seeds = (
        {**TINY_GRAPH, "activation": "nn.LeakyReLU(0.1)"},
        *(read_yaml(f"models/{name}.yaml") for name in ("yolov5n", "segment/yolov5n-seg", "semantic/yolov5n-psp")),
    )

    def read(self, path: Path) -> None:
        load_model_yaml(path)
        with torch.device("meta"):  # the layers, without the time of filling them
            build_model(path)


class DataYamls(TreeTarget):
    seeds = (
        {"path": ".", "train": "images", "val": ["images/a.png"], "test": "list.txt", "nc": 2, "names": NAMES},
        {"train": {"images": "images", "annotations": "a.json"}, "val": "images", "names": ["square", "disc"]},
        {
            "train": "images",
            "val": "images",
            "semantic": {
                "names": ["a", "b"],
                "masks": "masks",
                "palette": [[0, 0, 0], [9, 9, 9]],
                "id_map": {0: 0, 1: 1},
            },
        },
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _write_images(folder)
        self.write("a.json", json.dumps(CocoJson.seeds[0]).encode())

    def read(self, path: Path) -> None:
        spec = load_spec(path, prepare=False)
        for split in spec.splits:
            verify_split(spec, split, workers=1)
            if spec.semantic is not None and spec.semantic_set is None:
                verify_semantic_split(spec, split, workers=1)


class StoredSettings(TreeTarget):
    """opt.yaml of a run that is resumed."""

    seeds = (TrainConfig().to_dict(),)

    def run(self, data: bytes) -> None:
        self.write("run/opt.yaml", data)
        state = {"task": "detect", "epoch": 0, "opt": TrainConfig().to_dict(), "hyp": Hyperparameters().to_dict()}
        restore_config(TrainConfig(resume="last.pt"), self.folder / "run/weights/last.pt", state)


class Metadata(TreeTarget):
    """Metadata of exported models."""

    seeds = (
        ModelInfo(names=NAMES, imgsz=(64, 96)).to_values(),
        ModelInfo(names=NAMES, imgsz=(64, 96)).to_strings(),
    )

    def read(self, path: Path) -> None:
        values = read_yaml(path)
        if isinstance(values, dict):
            ModelInfo.from_values(values, place=str(path))


# -- tables ------------------------------------------------------------------------------------------------------------


class ResultsTables(TextTarget):
    name = "results.csv"
    seeds = (format_table([make_row(n, {"train/box_loss": 0.1 / n, "metrics/mAP_0.5": 0.5}) for n in range(1, 5)]),)

    def read(self, path: Path) -> None:
        for row in read_rows(path):
            assert all(np.ndim(float(value)) == 0 for value in row.values())


class EvolveTables(Target):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = [Generation({"metrics/mAP_0.5": 0.5}, GENES, 0.5, number) for number in (1, 2, 3)]
        write_generations(folder / "seed.csv", rows)
        self.seed = (folder / "seed.csv").read_text()

    def list_seeds(self) -> list[bytes]:
        return [self.seed.encode()]

    def mutate(self, rng: Rng) -> bytes:
        return mutate_text(self.seed, rng)

    def run(self, data: bytes) -> None:
        read_generations(self.write("evolve.csv", data), list(GENES))


# -- images and labels -------------------------------------------------------------------------------------------------


class LabelFiles(TextTarget):
    name = "labels.txt"
    seeds = (LABELS,)

    def read(self, path: Path) -> None:
        labels = read_label_file(str(path), len(NAMES))
        box = labels.rows[:, 1:]
        assert np.isfinite(box).all() and (box[:, 2:] > 0).all()
        assert ((labels.rows[:, 0] >= 0) & (labels.rows[:, 0] < len(NAMES))).all()
        assert (box[:, :2] + box[:, 2:] / 2 <= 1.001).all() and (box[:, :2] - box[:, 2:] / 2 >= -0.001).all()


class ImageLists(TextTarget):
    name = "list.txt"
    seeds = ("./images/a.png\nimages/b.png\n# comment\n\nimages/c.jpg\n",)

    def read(self, path: Path) -> None:
        list_images(path, path.parent)


class Images(Target):
    """Image files of all formats: verified, measured and decoded."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = _draw_image_files()

    def list_seeds(self) -> list[bytes]:
        return [f"{suffix}\n".encode() + data for suffix, data in self.seeds]

    def mutate(self, rng: Rng) -> bytes:
        suffix, data = choose(self.seeds, rng)
        head = int(rng.choice((64, 512, len(data))))  # headers are small
        return f"{suffix}\n".encode() + mutate_bytes(data[:head], rng) + data[head:]

    def run(self, data: bytes) -> None:
        suffix, _, content = data.partition(b"\n")
        path = self.write(f"image{suffix.decode()}", content)
        verified = verify_image(str(path), None, 1)
        for read in (load_images, read_semantic_mask):
            with suppress(InputError, ImageError):
                read(str(path))  # type: ignore[operator]
        shape = read_image(path).shape
        assert verified.size_hw is None or verified.size_hw == shape[:2], f"{verified.size_hw} verified, {shape} read"
        assert read_image_size_hw(path) == shape[:2], f"{read_image_size_hw(path)} measured, {shape} read"


class LabelCaches(Target):
    """labels.cache: a changed file is never used."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        paths = PathTable.from_paths([f"images/{n}.png" for n in range(4)])
        sizes, offsets = np.full((4, 2), 64, np.int32), np.array([0, 1, 3, 3, 4])
        boxes = np.linspace(0.1, 0.9, 16).reshape(4, 4).astype(np.float32)
        self.index = ImageIndex(paths, sizes, offsets, np.array([0, 1, 0, 1], np.int32), boxes)
        save_cache(folder / "seed.cache", "key", self.index, Findings(images=4, messages=["a.png: damaged"]))
        self.seed = (folder / "seed.cache").read_bytes()

    def list_seeds(self) -> list[bytes]:
        return [self.seed]

    def mutate(self, rng: Rng) -> bytes:
        return mutate_bytes(self.seed, rng)

    def run(self, data: bytes) -> None:
        loaded = load_cache(self.write("labels.cache", data), "key")
        if loaded is not None and data != self.seed:
            index, findings = loaded
            for name in ("sizes_hw", "offsets", "classes", "boxes_xywhn"):
                assert np.array_equal(getattr(index, name), getattr(self.index, name)), f"{name} differs"
            assert list(index.paths) == list(self.index.paths)
            assert findings == Findings(images=4, messages=["a.png: damaged"])


# -- annotations -------------------------------------------------------------------------------------------------------


class CocoJson(TreeTarget):
    suffix = ".json"
    seeds = (
        {
            "images": [
                {"id": 1, "file_name": "a.png", "width": 32, "height": 24},
                {"id": 2, "file_name": "images/b.png", "width": 32, "height": 24},
            ],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 8], "iscrowd": 0},
                {
                    "id": 2,
                    "image_id": 2,
                    "category_id": 7,
                    "bbox": [1, 2, 10, 8],
                    "segmentation": [[1, 2, 11, 2, 11, 10]],
                },
                {
                    "id": 3,
                    "image_id": 2,
                    "category_id": 7,
                    "bbox": [0, 0, 8, 8],
                    "segmentation": {"size": [24, 32], "counts": [0, 8, 760]},
                },
            ],
            "categories": [{"id": 3, "name": "square"}, {"id": 7, "name": "disc"}],
        },
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _write_images(folder)
        splits = {"train": {"images": "images", "annotations": "file.json"}, "val": "images", "names": NAMES}
        self.data = self.write("data.yaml", yaml.safe_dump(splits).encode())

    def read(self, path: Path) -> None:
        verify_split(load_spec(self.data, prepare=False), "train", workers=1)


class Labelme(TreeTarget):
    suffix = ".json"
    seeds = (
        {
            "imagePath": "a.png",
            "imageHeight": 24,
            "imageWidth": 32,
            "shapes": [
                {"label": "square", "points": [[1, 2], [11, 10]], "shape_type": "rectangle", "group_id": None},
                {"label": "disc", "points": [[4, 4], [8, 8]], "shape_type": "circle", "group_id": 1},
                {"label": "disc", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "group_id": 1},
            ],
        },
    )

    def read(self, path: Path) -> None:
        _write_image(self.folder / "a.png")
        read_labelme(path.parent, (), None)


class Supervisely(TreeTarget):
    suffix = ".json"
    seeds = (
        {
            "size": {"height": 24, "width": 32},
            "objects": [
                {
                    "classTitle": "square",
                    "geometryType": "rectangle",
                    "points": {"exterior": [[1, 2], [9, 9]], "interior": []},
                },
                {
                    "classTitle": "disc",
                    "geometryType": "polygon",
                    "points": {
                        "exterior": [[1, 2], [20, 2], [20, 20]],
                        "interior": [[[10, 4], [14, 4], [14, 8]]],
                    },
                },
                {
                    "classTitle": "disc",
                    "geometryType": "bitmap",
                    "bitmap": {"data": encode_bitmap(np.eye(6, dtype=bool)), "origin": [2, 3]},
                },
            ],
        },
    )

    def run(self, data: bytes) -> None:
        self.write("meta.json", json.dumps({"classes": [{"title": "square"}, {"title": "disc"}]}).encode())
        self.write("train/ann/a.png.json", data)
        _write_image(self.folder / "train/img/a.png")
        read_supervisely(self.folder, (), None)


class VocXml(TextTarget):
    name = "a.xml"
    seeds = (
        "<annotation>\n<filename>a.png</filename>\n<size><width>32</width><height>24</height><depth>3</depth></size>\n"
        "<object>\n<name>square</name>\n<difficult>0</difficult>\n<bndbox><xmin>2</xmin><ymin>3</ymin>"
        "<xmax>12</xmax><ymax>11</ymax></bndbox>\n</object>\n</annotation>\n",
    )

    def read(self, path: Path) -> None:
        _write_image(self.folder / "a.png")
        read_voc(path.parent, (), None)


# -- weights and archives ----------------------------------------------------------------------------------------------


class Checkpoints(Target):
    """Bytes of a checkpoint change: what is accepted has the original's weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = _write_checkpoints(folder)
        self.weights = [load_checkpoint(folder / f"seed{k}.pt").state_dict for k in range(len(self.seeds))]

    def list_seeds(self) -> list[bytes]:
        return [bytes([number]) + seed for number, seed in enumerate(self.seeds)]

    def mutate(self, rng: Rng) -> bytes:
        number = int(rng.integers(len(self.seeds)))
        return bytes([number]) + mutate_bytes(self.seeds[number], rng)

    def run(self, data: bytes) -> None:
        weights = load_checkpoint(self.write("a.pt", data[1:])).state_dict
        expected = self.weights[data[0]]
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            assert value.dtype == expected[key].dtype, f"{key} differs"
            assert torch.equal(value, expected[key]), f"{key} differs"


class CheckpointPickles(Target):
    """The pickle in a checkpoint changes, and its checksum with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = _write_checkpoints(folder)

    def list_seeds(self) -> list[bytes]:
        return self.seeds

    def mutate(self, rng: Rng) -> bytes:
        seed, out = zipfile.ZipFile(io.BytesIO(choose(self.seeds, rng))), io.BytesIO()
        with zipfile.ZipFile(out, "w") as target:
            for info in seed.infolist():
                data = seed.read(info)
                target.writestr(info, mutate_bytes(data, rng) if info.filename.endswith("data.pkl") else data)
        return out.getvalue()

    def run(self, data: bytes) -> None:
        load_checkpoint(self.write("a.pt", data))


class CheckpointFields(Target):
    """Values in a checkpoint of ours change."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _write_checkpoints(folder)
        self.seed = load_training_state(folder / "seed0.pt")

    def list_seeds(self) -> list[bytes]:
        return [(self.folder / "seed0.pt").read_bytes()]

    def mutate(self, rng: Rng) -> bytes:
        out = io.BytesIO()
        torch.save(mutate_value(self.seed, rng), out)
        return out.getvalue()

    def run(self, data: bytes) -> None:
        path = self.write("a.pt", data)
        load_checkpoint(path)
        state = load_training_state(path)
        restore_config(TrainConfig(resume=str(path)), self.folder / "run/weights/last.pt", state)


class TorchScript(Target):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seed = export_torchscript(build_tiny_job(folder)).read_bytes()

    def list_seeds(self) -> list[bytes]:
        return [self.seed]

    def mutate(self, rng: Rng) -> bytes:
        return mutate_bytes(self.seed, rng)

    def run(self, data: bytes) -> None:
        load_torchscript([str(self.write("a.torchscript", data))], device=torch.device("cpu"))


class Archives(Target):
    """Zip and tar archives, also with hostile names: nothing is written outside their folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = [_pack_zip(), *map(_pack_tar, ("w", "w:gz", "w:xz"))]

    def list_seeds(self) -> list[bytes]:
        return self.seeds

    def mutate(self, rng: Rng) -> bytes:
        if rng.random() < 0.3:
            return _pack_hostile_tar(rng)
        return mutate_bytes(choose(self.seeds, rng), rng)

    def run(self, data: bytes) -> None:
        archive = self.write("a.archive", data)
        inside, outside = self.folder / "work/inside", self.folder / "work/outside"
        outside.mkdir(parents=True, exist_ok=True)
        (self.folder / "work/file").write_text("kept")
        try:
            unpack_archive(archive, inside)
        finally:
            assert not list(outside.iterdir()), "written outside the folder"
            assert sorted(p.name for p in (self.folder / "work").iterdir() if p != inside) == ["file", "outside"]
            assert (self.folder / "work/file").read_text() == "kept"
            _remove_tree(inside)


def _remove_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if folder.is_dir():
        folder.rmdir()


# -- seeds -------------------------------------------------------------------------------------------------------------


def _write_images(folder: Path) -> None:
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        _write_image(folder / f"images/{name}.png")
        _write_image(folder / f"masks/{name}.png", np.eye(24, 32, dtype=np.uint8))
        (folder / f"labels/{name}.txt").write_text(LABELS)
    (folder / "list.txt").write_text("images/a.png\n")


def _write_image(path: Path, frame: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 32, 3), 90, np.uint8) if frame is None else frame)


def _draw_image_files() -> list[tuple[str, bytes]]:
    """Small images of every format, by suffix."""
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    files = [(suffix, cv2.imencode(suffix, frame)[1].tobytes()) for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp")]
    image, exif = Image.fromarray(frame), Image.Exif()
    exif[0x0112] = 6
    for suffix, options in ((".jpg", {"exif": exif}), (".png", {"exif": exif}), (".jpg", {"progressive": True})):
        out = io.BytesIO()
        image.save(out, "JPEG" if suffix == ".jpg" else "PNG", **options)
        files.append((suffix, out.getvalue()))
    for mode, suffix in (("P", ".png"), ("1", ".png"), ("I;16", ".png"), ("L", ".tif")):
        out = io.BytesIO()
        image.convert("L").convert(mode).save(out, "PNG" if suffix == ".png" else "TIFF")
        files.append((suffix, out.getvalue()))
    pfm = b"PF\n32 24\n-1.0\n" + (frame / 255).astype("<f4").tobytes()
    for array in (frame, frame[..., 0].astype(np.uint16), (frame / 255).astype(np.float32)):
        out = io.BytesIO()
        np.save(out, array)
        files.append((".npy", out.getvalue()))
    return [*files, (".pfm", pfm)]


def _write_checkpoints(folder: Path) -> list[bytes]:
    """A checkpoint of ours with training state, and one in the format of the original."""
    model = build_tiny_model()
    payload = {
        "task": "detect",
        "yaml": model.yaml,
        "names": NAMES,
        "model": model.state_dict(),
        "ema": model.state_dict(),
        "ema_updates": 7,
        "epoch": 1,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "scaler": {},
        "early_stop": {"best_fitness": 0.5, "best_epoch": 1},
        "task_state": {},
        "image_weights": None,
        "hyp": Hyperparameters().to_dict(),
        "opt": TrainConfig().to_dict(),
        "position": None,
    }
    save_checkpoint(folder / "seed0.pt", payload)
    job = build_tiny_job(folder, weights="seed0.pt")
    export_pickle(job).rename(folder / "seed1.pt")
    return [(folder / f"seed{k}.pt").read_bytes() for k in (0, 1)]


def _pack_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.txt", "images/b.txt", "images/empty/"):
            archive.writestr(name, "" if name.endswith("/") else "content " * 20)
    return out.getvalue()


def _pack_tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name in ("a.txt", "images/b.txt", "images/" + "long" * 40 + ".txt"):
            _add_member(archive, name, tarfile.REGTYPE)
    return out.getvalue()


def _pack_hostile_tar(rng: Rng) -> bytes:
    """Members with names of dots, absolute names, and links that later members go through."""
    parts = ("..", "...", ".", "", "a", "b", "outside", "work", "/", "inside", "..\\x", "file")
    kinds = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for _ in range(int(rng.integers(1, 5))):
            names = ["/".join(choose(parts, rng) for _ in range(int(rng.integers(1, 4)))) for _ in range(2)]
            _add_member(archive, names[0], choose(kinds, rng), link=names[1])
    return out.getvalue()


def _add_member(archive: tarfile.TarFile, name: str, kind: bytes, *, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = 10 if kind == tarfile.REGTYPE else 0
    archive.addfile(member, io.BytesIO(b"0123456789"))


TARGETS: dict[str, type[Target]] = {
    "hyp": HypFiles,
    "model-yaml": ModelYamls,
    "data-yaml": DataYamls,
    "opt": StoredSettings,
    "metadata": Metadata,
    "results-csv": ResultsTables,
    "evolve-csv": EvolveTables,
    "labels": LabelFiles,
    "lists": ImageLists,
    "images": Images,
    "label-cache": LabelCaches,
    "coco": CocoJson,
    "labelme": Labelme,
    "supervisely": Supervisely,
    "voc": VocXml,
    "checkpoints": Checkpoints,
    "checkpoint-pickles": CheckpointPickles,
    "checkpoint-fields": CheckpointFields,
    "torchscript": TorchScript,
    "archives": Archives,
}
