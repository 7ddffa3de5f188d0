"""Detection, segmentation and classification heads, and the networks that graphs of models/*.yaml become.

Heads that give every pixel a class are in models/semantic_heads.py.

As a script: python models/yolo.py --cfg yolov5s.yaml prints the layer table, parameters and GFLOPs.
"""

from __future__ import annotations

if __name__ == "__main__":  # the command lives in its own module, which answers --help before torch is loaded
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from models.inspect_cli import main
    from utils.core.script import run_script

    run_script(main)

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import Classify, Conv, Proto
from models.graph import load_model_yaml, parse_graph
from models.layers import LAYERS, LayerSpec, detection, segmentation
from models.recompute import recomputed
from models.semantic_heads import SEMANTIC_HEADS, JointOutput, SemanticHead, mean_logits
from models.summary import meta_forward, model_summary
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.imaging.semantic_classes import SemanticClasses

STRIDE_PROBE = 256  # side of the image whose maps tell the strides, pixels
TTA_SCALES_FLIPS = ((1.0, False), (0.83, True), (0.67, False))
TTA_PADDING = 0.447  # mean gray of ImageNet
Visitor = Callable[[nn.Module, Any], None]


class Detect(nn.Module):
    """Anchor-based head: one 1x1 convolution per level, decoded to boxes in evaluation mode.

    Args:
        nc: number of classes.
        anchors: per level a flat list w, h, ... in pixels of the network input.
        ch: channels of the input maps; empty where the inputs are output maps already (release 1.0).
        inplace: decode within the result's memory where no gradient is recorded.

    Attributes:
        no, nl, na: outputs per anchor (5 + nc), levels, anchors per level.
        anchors: buffer (nl, na, 2), width and height; in stride units once the model has set `stride` (nl,).
        grid, anchor_grid: cell offsets and anchor sizes of the last image size; the first is reused while it fits.
        export: return the decoded boxes alone, as a 1-tuple. dynamic: never reuse the cache.

    Shape:
        training: list of (B, na, H, W, no) raw maps.
        evaluation: (B, N, no) with x, y, w, h in pixels of the network input, objectness and class scores after the
        sigmoid; and the list of raw maps.
    """

    anchors: Tensor
    stride: Tensor | None = None
    inplace = True
    grid: list[Tensor]
    anchor_grid: list[Tensor]
    dynamic = False
    export = False

    def __init__(
        self,
        nc: int = 80,
        anchors: Sequence[Sequence[float]] = (),
        ch: Sequence[int] = (),
        inplace: bool = True,
    ) -> None:
        super().__init__()
        self.nc, self.no = nc, 5 + nc
        self.nl, self.na = len(anchors), len(anchors[0]) // 2 if anchors else 0
        sizes = torch.tensor(anchors, dtype=torch.float32).reshape(self.nl, self.na, 2)
        self.register_buffer("anchors", sizes)
        self.m = nn.ModuleList(nn.Conv2d(channels, self.no * self.na, 1) for channels in ch)
        self.inplace = inplace
        self._forget_grids()

    def forward(self, x: Sequence[Tensor]) -> Any:
        outputs = self._outputs(x)
        maps = [output.unflatten(1, (self.na, self.no)).permute(0, 1, 3, 4, 2) for output in outputs]
        if self.training:
            return maps
        rewrites = self.inplace and not (self.export or maps[0].requires_grad or torch.compiler.is_compiling())
        boxes = self._decode_into_one(maps) if rewrites else torch.cat([*map(self._decode, outputs, range(self.nl))], 1)
        return (boxes,) if self.export else (boxes, maps)

    def _outputs(self, x: Sequence[Tensor]) -> Sequence[Tensor]:
        """Feature maps (B, C, H, W) -> output maps (B, na * no, H, W)."""
        convs: Any = self._modules.get("m") or ()  # pickles of release 1.0 have none
        return [conv(feature) for conv, feature in zip(convs, x, strict=True)] if len(convs) else x

    def _decode(self, output: Tensor, level: int) -> Tensor:
        """An output map -> (B, na*H*W, no): xy = (2 sig - 0.5 + cell) s, wh = (2 sig)^2 anchor.

        The sigmoid comes first, as runtimes of exported graphs make one step of it and the convolution before, and the
        columns of a row are put together where they are still planes.
        """
        output = output.to(_box_type(output.dtype))
        cells, sizes, stride = self._grids(output, level)
        planes = (self.na, self.no)  # (B, na, no, H, W)
        scores, further = output.sigmoid().unflatten(1, planes), output.unflatten(1, planes)[:, :, 5 + self.nc :]
        stride = stride.view(-1, 1, 1)  # one, or one for x and one for y
        xy = (scores[:, :, 0:2] * 2 + cells.movedim(-1, -3)) * stride
        wh = (scores[:, :, 2:4] * 2) ** 2 * sizes.movedim(-1, -3)
        columns = torch.cat((xy, wh, scores[:, :, 4 : 5 + self.nc], further), dim=2)
        return columns.permute(0, 1, 3, 4, 2).flatten(1, 3)

    def _decode_into_one(self, maps: Sequence[Tensor]) -> Tensor:
        """As `_decode` for all levels, computed within the joined result: 5 to 10 times faster on the CPU."""
        counts = [raw.shape[1:4].numel() for raw in maps]
        boxes = maps[0].new_empty(maps[0].shape[0], sum(counts), self.no, dtype=_box_type(maps[0].dtype))
        parts = [part.unflatten(1, raw.shape[1:4]) for part, raw in zip(boxes.split(counts, 1), maps, strict=True)]
        for part, raw in zip(parts, maps, strict=True):
            part.copy_(raw)
        boxes[..., : 5 + self.nc].sigmoid_()
        for level, part in enumerate(parts):
            cells, sizes, stride = self._grids(part, level)
            part[..., 0:2].mul_(2).add_(cells).mul_(stride)
            part[..., 2:4].mul_(2).square_().mul_(sizes)
        return boxes

    def _grids(self, raw: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cell offsets - 0.5, in cells, cached; anchor sizes in pixels; both for (B, na, H, W, 2); and the stride.

        `raw` is a raw map or an output map: its axes 2 and 3 are H and W in both.
        """
        height, width = raw.shape[2:4]
        shape = (1, self.na, height, width, 2)
        stride = self.stride[level].to(raw.dtype)  # type: ignore[index]
        pixels = self.anchors[level].to(raw.dtype) * stride
        sizes = pixels.view(1, self.na, 1, 1, 2).expand(shape)
        keeps = not torch.compiler.is_compiling()
        cached = self.grid[level]  # read once: another thread may put the grid of its own image there at any moment
        if keeps and not self.dynamic and _fits(cached, raw):
            return cached, sizes, stride
        y = torch.arange(height, device=raw.device, dtype=raw.dtype) - 0.5
        x = torch.arange(width, device=raw.device, dtype=raw.dtype) - 0.5
        columns, rows = x.expand(height, width), y.unsqueeze(1).expand(height, width)
        cells = torch.stack((columns, rows), dim=2)  # (H, W, 2)
        if not keeps or self.dynamic:  # not expanded: OpenVINO takes the batch of an expanded operand for that of all
            return cells, pixels.view(self.na, 1, 1, 2), stride
        cells = cells.expand(shape)
        self.grid[level], self.anchor_grid[level] = cells, sizes
        return cells, sizes, stride

    def _forget_grids(self) -> None:
        self.__dict__.update(_no_grids(self.nl))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Detect:
        """Move or convert, with the strides, which are no buffer; cached grids are made anew when needed.

        The anchors keep their type: half precision would make other boxes of them.
        """
        exact = self.anchors
        super()._apply(fn, recurse)
        if self.anchors.dtype != _box_type(self.anchors.dtype):
            self.anchors = exact.to(self.anchors.device)
        if isinstance(self.stride, Tensor):
            self.stride = fn(self.stride)
        self._forget_grids()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the cached grids."""
        return {**self.__dict__, **_no_grids(self.nl)}


def _box_type(dtype: torch.dtype) -> torch.dtype:
    """FP32 or finer: beyond 512 pixels FP16 places boxes on a grid of half a pixel, BF16 of four."""
    return torch.promote_types(dtype, torch.float32)


def _no_grids(levels: int) -> dict[str, list[Tensor]]:
    """The head's cached attributes before any forward pass."""
    return {name: [torch.empty(0)] * levels for name in ("grid", "anchor_grid")}


def _fits(cached: Tensor, raw: Tensor) -> bool:
    """Whether a cached grid serves this map: size, dtype, device, and use under autograd."""
    return (
        cached.ndim == 5
        and cached.shape[2:4] == raw.shape[2:4]
        and cached.dtype == raw.dtype
        and cached.device == raw.device
        and (torch.is_inference_mode_enabled() or not cached.is_inference())
    )


class Segment(Detect):
    """`Detect` with `nm` mask coefficients per box and shared mask prototypes (YOLACT, arXiv:1904.02689).

    Args:
        nm, npr: mask coefficients, hidden channels of the prototype branch.

    Shape:
        no = 5 + nc + nm, the coefficients are not activated; prototypes (B, nm, H/4, W/4). Training: (maps,
        prototypes); evaluation: (boxes, prototypes, maps); export: (boxes, prototypes).
    """

    def __init__(
        self,
        nc: int = 80,
        anchors: Sequence[Sequence[float]] = (),
        nm: int = 32,
        npr: int = 256,
        ch: Sequence[int] = (),
        inplace: bool = True,
    ) -> None:
        super().__init__(nc, anchors, (), inplace)
        self.nm = nm
        self.npr = npr
        self.no = 5 + nc + nm
        self.m = nn.ModuleList(nn.Conv2d(channels, self.no * self.na, 1) for channels in ch)
        self.proto = Proto(ch[0], npr, nm)
        self.detect = Detect.forward  # other tools call the parent's forward through it

    def forward(self, x: Sequence[Tensor]) -> Any:
        prototypes = self.proto(x[0])
        found = super().forward(x)
        if self.training:
            return found, prototypes
        boxes, *maps = found
        return boxes, prototypes, *maps


NETWORK_LAYERS: dict[str, LayerSpec] = {
    **LAYERS,
    "Detect": LayerSpec(Detect, detection, many_inputs=True, supplied=("ch", "inplace")),
    "Segment": LayerSpec(Segment, segmentation, many_inputs=True, supplied=("ch", "inplace")),
}


class BaseModel(nn.Module):
    """A graph of layers that run in order; each takes the outputs its `f` names.

    Attributes:
        model: the layers. save: indices of the outputs that are needed when the layer after has run.
        yaml, names, stride, inplace, nc: description, class names, strides of the head's levels (CPU), head option,
        number of classes.
        semantic: the classes of the semantic mask, where the network gives one.
        recompute: in training keep the outputs of layers only, see `models.recompute`.
    """

    model: nn.Sequential
    save: list[int]
    yaml: dict[str, Any]
    names: dict[int, str]
    stride: Tensor
    nc: int
    semantic: SemanticClasses | None = None
    recompute = False

    @property
    def head(self) -> Any:
        """The last layer."""
        return self.model[-1]

    @property
    def semantic_head(self) -> Any:
        """The layer that gives every pixel a class, wherever it stands; None where there is none."""
        return next((layer for layer in self.model if isinstance(layer, SemanticHead)), None)

    def _build(self, config: dict[str, Any], ch: int) -> None:
        """The layers of a loaded YAML."""
        self.yaml = config
        self.yaml_file = str(config.get("yaml_file", ""))
        self.yaml["ch"] = self.yaml.get("ch", ch)
        self.model, self.save = parse_graph(self.yaml, self.yaml["ch"], NETWORK_LAYERS)
        self.inplace = bool(self.yaml.get("inplace", True))
        _set_norm_and_inplace(self)

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """Run the graph on (B, C, H, W) images in [0, 1].

        Args:
            augment: test-time augmentation, where the network has one.
            profile: log the time of every layer.
            visualize: a function called with (layer, its output) after every layer.
        """
        return self._run(x, profile, visualize)

    def _run(self, x: Tensor, profile: bool = False, visualize: Visitor | bool | None = False) -> Any:
        """One pass through the graph."""
        outputs: dict[int, Any] = {}
        value: Any = x
        layer: Any
        saves_memory = self.recompute and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.model):
            inputs = _inputs_of(layer.f, index, value, outputs)
            if profile:
                self._profile_layer(layer, inputs)
            value = recomputed(layer, inputs) if saves_memory else layer(inputs)
            if index in self.save:
                outputs[index] = value
            if callable(visualize):
                visualize(layer, value)
        return self._result(outputs, value)

    def _result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        """What a pass gives, from the saved outputs and the last layer's."""
        return last

    def _probe(self) -> list[tuple[Any, Any]]:
        """Every layer with its output, from a pass without data (meta tensors: nothing is computed)."""
        done: list[tuple[Any, Any]] = []
        try:
            meta_forward(self, (STRIDE_PROBE,) * 2, visualize=lambda layer, output: done.append((layer, output)))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            row = self.model[len(done)]
            kind = str(row.type).rpartition(".")[2]
            raise InputError(
                f"{self.yaml_file or 'model YAML'}: row {row.i}: {kind} cannot take what rows {row.f} give: {error}"
            ) from error
        if (head := self.semantic_head) is not None:  # it is told by how much to enlarge its map
            output = next(output for layer, output in done if layer is head)
            height = (output if isinstance(output, Tensor) else output[0]).shape[2]
            head.stride = head.stride * STRIDE_PROBE // height
        return done

    def _set_up_semantic_head(self) -> None:
        """Check that there is one, and take its classes."""
        heads = [layer for layer in self.model if isinstance(layer, SemanticHead)]
        if len(heads) != 1:
            raise InputError(
                f"{self.yaml_file or 'model YAML'}: {len(heads)} semantic heads; a semantic mask comes from one row of "
                f"{', '.join(SEMANTIC_HEADS)}"
            )
        head: Any = heads[0]
        self.semantic = SemanticClasses.numbered(head.nc)
        self.save = sorted({*self.save, self.head.i, head.i})  # results, wherever they stand

    def _views(self, x: Tensor) -> Iterator[tuple[Tensor, tuple[float, bool]]]:
        """The images of test-time augmentation, each with its scale and whether it is mirrored."""
        grid = int(torch.as_tensor(self.stride).max())
        for scale, mirrored in TTA_SCALES_FLIPS:
            yield _rescaled(x.flip(3) if mirrored else x, scale, grid), (scale, mirrored)

    def _profile_layer(self, layer: Any, inputs: Any, repeats: int = 10) -> None:
        """Log the mean time of a layer, in milliseconds."""
        last = layer is self.model[-1]
        inputs = list(inputs) if last and not isinstance(inputs, Tensor) else inputs
        started = _now(inputs)
        for _ in range(repeats):
            layer(inputs)
        milliseconds = (_now(inputs) - started) * 1000 / repeats
        LOGGER.info(f"{milliseconds:10.2f} ms {layer.np:10d} parameters  {layer.i:3d} {layer.type}")

    def fuse(self) -> BaseModel:
        """Fold batch normalization into the convolutions, for inference; returns the model itself."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self

    def info(self, verbose: bool = False, img_size: int | Sequence[int] = 640) -> None:
        """Log modules, parameters, GFLOPs; with `verbose` every parameter too. `img_size`: side or (h, w) in pixels."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        LOGGER.info(model_summary(self, (height, width), verbose=verbose, name=getattr(self, "yaml_file", "")))

    def convolutions_of_head(self) -> Iterator[tuple[Any, float]]:
        """The convolutions that make the raw maps, with the stride of each."""
        head = self.head
        convs = head.m if len(head.m) else [self.model[i if i >= 0 else head.i + i] for i in head.f]
        return zip(convs, head.stride.tolist(), strict=True)


def _overridden(cfg: str | Path | Mapping[str, Any], **values: int | None) -> dict[str, Any]:
    """The loaded YAML with the values that are not None in place of its own."""
    config = load_model_yaml(cfg)
    for key, value in values.items():
        if value is not None and value != config.get(key):
            LOGGER.info(f"{config.get('yaml_file') or 'model YAML'}: {key} {config.get(key)} becomes {value}")
            config[key] = value
    return config


def _inputs_of(origin: int | list[int], index: int, previous: Any, outputs: Mapping[int, Any]) -> Any:
    """The output(s) that layer `index` takes: one for a number, a list for a list."""
    if isinstance(origin, int):
        return previous if origin == -1 else outputs[origin % index]
    return [previous if i == -1 else outputs[i % index] for i in origin]


def _now(inputs: Any) -> float:
    """Seconds, after waiting for the device of `inputs`."""
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    if first.is_cuda:
        torch.cuda.synchronize(first.device)
    return time.perf_counter()


class DetectionModel(BaseModel):
    """A detector built from a model YAML.

    Args:
        cfg: path, shipped name or mapping.
        ch: channels of the image, unless the YAML names them.
        nc: number of classes, overriding the YAML.
        anchors: anchors per level, overriding the YAML (they are placeholders until searched for).

    Raises:
        utils.core.errors.InputError: the YAML cannot be used.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
    ) -> None:
        super().__init__()
        self._build(_overridden(cfg, nc=nc, anchors=None if anchors is None else round(anchors)), ch)
        self.nc = self.yaml["nc"]
        self.names = {i: str(i) for i in range(self.nc)}
        self._set_up_head()

    def _set_up_head(self) -> None:
        """Strides, anchors in stride units and biases of the head."""
        head = self.head
        if not isinstance(head, Detect):
            self.stride = torch.tensor([32.0], device="cpu")
            return
        head.inplace = self.inplace
        strides = self._probe_strides()
        head.stride = self.stride = torch.tensor(strides, device="cpu")
        anchors = self.yaml.get("anchors")
        if isinstance(anchors, list) and _opposite_order([math.prod(a[:2]) for a in anchors], strides):
            head.anchors = head.anchors.flip(0)
        head.anchors /= self.stride.to(head.anchors.device).view(-1, 1, 1)
        self.initialize_biases()

    def _probe_strides(self) -> list[float]:
        """Stride of every level."""
        found = next(output for layer, output in self._probe() if layer is self.head)
        maps = found[0] if isinstance(found, tuple) else found
        return [STRIDE_PROBE / raw.shape[2] for raw in maps]

    @torch.no_grad()
    def initialize_biases(self) -> None:
        """Start from few objects, 8 per 640 px image and level, and equally likely classes (arXiv:1708.02002)."""
        head = self.head
        for conv, stride in self.convolutions_of_head():
            bias = conv.bias.view(head.na, -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5 : 5 + head.nc] += math.log(0.6 / (head.nc - 0.99999))

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """As `BaseModel.forward`; with `augment` ((B, N, no), None) from three scales, the second one mirrored."""
        return self._run_augmented(x) if augment else self._run(x, profile, visualize)

    def _run_augmented(self, x: Tensor) -> Any:
        """Boxes of several sizes of the image, in pixels of the given one."""
        parts = [self._boxes_of_view(self._run(image), x, *view) for image, view in self._views(x)]
        return torch.cat(parts, dim=1), None

    def _boxes_of_view(self, output: tuple[Tensor, list[Tensor]], x: Tensor, scale: float, mirrored: bool) -> Tensor:
        """Decoded rows of one view in pixels of `x`, without the level that is least sure at that size."""
        boxes, maps = output
        strides = self.head.stride.tolist()
        skipped = {TTA_SCALES_FLIPS[0]: max(strides), TTA_SCALES_FLIPS[-1]: min(strides)}.get((scale, mirrored))
        levels = boxes.split([raw.shape[1:4].numel() for raw in maps], dim=1)
        kept = [rows for rows, stride in zip(levels, strides, strict=True) if stride != skipped or len(levels) == 1]
        return _restored(torch.cat(kept, dim=1), scale, x.shape[3] if mirrored else None)


Model = DetectionModel  # the name that releases before 6.2 pickle


def _opposite_order(sizes: Sequence[float], strides: Sequence[float]) -> bool:
    """Whether the sizes fall where the strides rise, or the other way round."""
    return (sizes[-1] - sizes[0]) * (strides[-1] - strides[0]) < 0


def _set_norm_and_inplace(model: nn.Module) -> None:
    """The recipe's batch-norm constants, and activations that reuse their input's memory."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, nn.Hardswish | nn.LeakyReLU | nn.ReLU | nn.ReLU6 | nn.SiLU):
            module.inplace = True


def _logits_of_view(logits: Tensor, x: Tensor, scale: float, mirrored: bool) -> Tensor:
    """Logits (B, n, H', W') of a rescaled, padded, perhaps mirrored image over the pixels of the original `x`."""
    height, width = x.shape[2:]
    logits = logits.float()
    if scale != 1:
        logits = logits[:, :, : int(height * scale), : int(width * scale)]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return logits.flip(3) if mirrored else logits


def _rescaled(images: Tensor, scale: float, grid: int) -> Tensor:
    """Images resized by `scale` and padded right and below to multiples of `grid`."""
    if scale == 1:
        return images
    height, width = images.shape[2:]
    resized = F.interpolate(images, (int(height * scale), int(width * scale)), mode="bilinear", align_corners=False)
    padded_h, padded_w = (math.ceil(side * scale / grid) * grid for side in (height, width))
    right, below = padded_w - resized.shape[3], padded_h - resized.shape[2]
    return F.pad(resized, (0, right, 0, below), value=TTA_PADDING)


def _restored(boxes: Tensor, scale: float, mirrored_width: int | None) -> Tensor:
    """Decoded rows (B, N, no) of a rescaled, perhaps mirrored image in pixels of the original one."""
    xywh = boxes[..., :4] / scale
    if mirrored_width is not None:
        x = mirrored_width - xywh[..., :1]
        xywh = torch.cat((x, xywh[..., 1:]), dim=-1)
    return torch.cat((xywh, boxes[..., 4:]), dim=-1)


class SegmentationModel(DetectionModel):
    """An instance segmenter built from a model YAML whose head is `Segment`."""

    _told = False  # that there is no test-time augmentation

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s-seg.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
    ) -> None:
        super().__init__(cfg, ch, nc, anchors)

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """As `BaseModel.forward`; `augment` is ignored with a warning: prototypes of several sizes do not combine."""
        if augment and not self._told:
            LOGGER.warning("test-time augmentation is not available for segmentation; the plain result is used")
            self._told = True
        return self._run(x, profile, visualize)


class JointModel(DetectionModel):
    """A detector and a semantic head that share backbone and neck; either head may stand first.

    Args:
        n_segcls: number of semantic classes, overriding the YAML; others as `DetectionModel`.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s-psp.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
        n_segcls: int | None = None,
    ) -> None:
        super().__init__(_overridden(cfg, n_segcls=n_segcls), ch, nc, anchors)

    @property
    def head(self) -> Any:
        """The layer that gives the boxes."""
        return next(layer for layer in self.model if isinstance(layer, Detect))

    def _set_up_head(self) -> None:
        self._set_up_semantic_head()
        super()._set_up_head()

    def _result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        """Both outputs; flat for exported files."""
        detection, semantic = outputs[self.head.i], outputs[self.semantic_head.i]
        return (*detection, semantic) if self.head.export and not self.training else JointOutput(detection, semantic)

    def _run_augmented(self, x: Tensor) -> JointOutput:
        """As the detector's, with the mean of the semantic masks' probabilities."""
        views = [(self._run(image), view) for image, view in self._views(x)]
        boxes = torch.cat([self._boxes_of_view(found.detection, x, *view) for found, view in views], dim=1)
        logits = mean_logits(_logits_of_view(found.semantic, x, *view) for found, view in views)
        return JointOutput((boxes, None), logits)


class SemanticModel(BaseModel):
    """A network that gives every pixel a class, and no boxes.

    Args:
        cfg: path, shipped name or mapping.
        ch: channels of the image, unless the YAML names them.
        n_segcls: number of classes, overriding the YAML.

    Shape:
        (B, C, H, W) -> logits (B, n_segcls, H, W), in training a list of these where the head has auxiliary outputs.
    """

    def __init__(
        self, cfg: str | Path | Mapping[str, Any] = "yolov5s-sem.yaml", ch: int = 3, n_segcls: int | None = None
    ) -> None:
        super().__init__()
        self._build(_overridden(cfg, n_segcls=n_segcls), ch)
        self._set_up_semantic_head()
        self.nc = self.yaml["nc"] = self.head.nc
        self.names = {i: str(i) for i in range(self.nc)}
        coarsest = min(output.shape[2] for _, output in self._probe() if isinstance(output, Tensor))
        self.stride = torch.tensor([STRIDE_PROBE / coarsest], device="cpu")

    @property
    def head(self) -> Any:
        """The semantic head."""
        return self.semantic_head

    def _result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        return outputs[self.head.i]

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """As `BaseModel.forward`; `augment` gives the mean of three sizes, the second one mirrored."""
        if not augment:
            return self._run(x, profile, visualize)
        return mean_logits(_logits_of_view(self._run(image), x, *view) for image, view in self._views(x))


class ClassificationModel(BaseModel):
    """The first layers of a detector with a classifier in place of the last one kept.

    Args:
        cfg: model YAML to build the detector from, where `model` is not given.
        model: a detector, which gives its layers away.
        nc: number of classes.
        cutoff: number of layers kept, the classifier included.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] | None = None,
        model: BaseModel | None = None,
        nc: int = 1000,
        cutoff: int = 10,
    ) -> None:
        super().__init__()
        if model is None:
            model = DetectionModel("yolov5s.yaml" if cfg is None else cfg)
        layers: list[Any] = list(model.model)[:cutoff]
        replaced = layers[-1]
        head: Any = Classify(_input_channels(replaced), nc)
        _adopt_activation(head, replaced)  # its norm keeps torch's constants, as in the released classifiers
        head.i, head.f, head.type = replaced.i, replaced.f, f"{Classify.__module__}.{Classify.__qualname__}"
        head.np = sum(p.numel() for p in head.parameters())
        self.model = nn.Sequential(*layers[:-1], head)
        self.save: list[int] = []
        self.stride = model.stride
        self.yaml = {**copy.deepcopy(getattr(model, "yaml", {})), "cutoff": cutoff}
        self.yaml_file = getattr(model, "yaml_file", "")
        self.inplace = True
        self.nc = nc
        self.names = {i: str(i) for i in range(nc)}


def _input_channels(layer: nn.Module) -> int:
    """Channels that a block takes, from the first convolution in it."""
    convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
    if not convs:
        raise ValueError(f"{type(layer).__name__} has no convolution to tell its input channels; choose another cutoff")
    return convs[0].in_channels


def _adopt_activation(head: Classify, neighbor: nn.Module) -> None:
    """Share the activation object of the detector's other Conv blocks."""
    for module in neighbor.modules():
        if isinstance(module, Conv):
            head.conv.act = module.act
            return


def build_model(
    cfg: str | Path | Mapping[str, Any],
    ch: int = 3,
    nc: int | None = None,
    anchors: float | None = None,
    n_segcls: int | None = None,
) -> BaseModel:
    """The network that the YAML's heads call for: boxes, instance masks, a semantic mask, or boxes and a semantic mask.

    Args:
        n_segcls: classes of the semantic mask, overriding the YAML; of a network without boxes `nc` does so too.
    """
    config = load_model_yaml(cfg)
    task = task_of_graph(config)
    if task == "semantic":
        return SemanticModel(config, ch, nc if n_segcls is None else n_segcls)
    if task == "joint":
        return JointModel(config, ch, nc, anchors, n_segcls)
    kind = SegmentationModel if task == "segment" else DetectionModel
    return kind(config, ch, nc, anchors)


def task_of_graph(config: Mapping[str, Any]) -> str:
    """The task of a loaded model YAML, told by its heads.

    Raises:
        InputError: a semantic head beside one for instance masks.
    """
    rows = [*config["backbone"], *config["head"]]
    kinds = {row[2] for row in rows if isinstance(row, list) and len(row) > 2 and isinstance(row[2], str)}
    if not kinds & SEMANTIC_HEADS.keys():
        return "segment" if "Segment" in kinds else "detect"
    if "Segment" in kinds:
        source = config.get("yaml_file") or "model YAML"
        raise InputError(f"{source}: Segment beside a semantic head; use Detect, or leave one of the two rows out")
    return "joint" if "Detect" in kinds else "semantic"


def task_of(model: nn.Module) -> str:
    """The task of a network, for an ensemble that of its first member."""
    first = model[0] if isinstance(model, nn.ModuleList) else model
    kinds = (
        (SegmentationModel, "segment"),
        (ClassificationModel, "classify"),
        (JointModel, "joint"),
        (SemanticModel, "semantic"),
    )
    return next((task for kind, task in kinds if isinstance(first, kind)), "detect")


def check_image_size(imgsz: int, stride: int) -> int:
    """`imgsz` rounded up to a multiple of the largest stride, at least one stride; warns when that changes it."""
    rounded = max(math.ceil(imgsz / stride), 1) * stride
    if rounded != imgsz:
        LOGGER.warning(f"image size {imgsz} is no multiple of the largest stride {stride}; using {rounded}")
    return rounded
