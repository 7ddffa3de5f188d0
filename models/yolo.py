"""Detection heads, and the networks built from model YAMLs. Semantic heads are in models/semantic_heads.py.

`python models/yolo.py --cfg yolov5s.yaml` prints a network's layers, parameters and GFLOPs.
"""

from __future__ import annotations

if __name__ == "__main__":  # the command has its own module, so that --help does not import torch
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from utils.core.script import run_script
    from utils.evaluate.summary_cli import main

    run_script(main)

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_checkpointing import checkpoint_layer
from models.common import NMS, Classify, Conv, Proto
from models.graph import format_reason, load_model_yaml, parse_graph
from models.layers import LAYERS, LayerSpec, resolve_detect, resolve_segment
from models.probe import probe
from models.semantic_heads import SEMANTIC_HEADS, JointOutput, SemanticHead, average_logits
from models.semantic_heads import SegMaskBase as SegMaskBase
from models.semantic_heads import SegMaskBiSe as SegMaskBiSe
from models.semantic_heads import SegMaskLab as SegMaskLab
from models.semantic_heads import SegMaskPSP as SegMaskPSP
from models.summary import format_model_summary
from utils.core.errors import InputError
from utils.core.lazy import OUTSIDE, import_project_module, lazy_exports
from utils.core.limits import check_limit
from utils.core.logging import LOGGER
from utils.imaging.semantic_classes import SemanticClasses

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
STRIDE_PROBE = 256  # image size from which strides are computed, pixels
GRID_IMAGE = 640  # image size of the grids that a loaded head has, pixels
MAX_OUTPUT = 2**28  # values that a layer may return for an image of that size
TTA_VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # (scale, mirrored)
TTA_PADDING = 0.447  # ImageNet mean
LAYER_KEY = re.compile(r"model\.(\d+)\.")
Visitor = Callable[[nn.Module, Any], None]


class Detect(nn.Module):
    """Anchor-based head: one 1x1 convolution per level, decoded to boxes in evaluation mode.

    Args:
        nc: number of classes.
        anchors: one flat list [w, h, ...] per level, in pixels of the network input.
        ch: channels of the feature maps; empty if the inputs are raw predictions (release 1.0).
        inplace: decode in place where no gradient is recorded.

    Attributes:
        no, nl, na: outputs per anchor (5 + nc), levels, anchors per level.
        anchors: buffer (nl, na, 2), width and height; in units of `stride` (nl,) once the model has set it.
        grid, anchor_grid: cell offsets and anchor sizes of the last image size; `grid` is reused if the size matches.
        export: return only the decoded boxes, as a 1-tuple. dynamic: do not cache grids.

    Shape:
        training: list of raw predictions (B, na, H, W, no).
        evaluation: (boxes, raw predictions); boxes (B, N, no): x, y, w, h in pixels of the network input, objectness
        and class scores after the sigmoid.
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
        self._reset_grids()

    def forward(self, x: Sequence[Tensor]) -> Any:
        preds = self._predict(x)  # (B, na * no, H, W) per level
        raw_preds = [self._split_anchors(pred).permute(0, 1, 3, 4, 2) for pred in preds]
        if self.training:
            return raw_preds
        if self.inplace and not (self.export or raw_preds[0].requires_grad or _is_recorded()):
            boxes = self._decode_inplace(raw_preds)
        else:
            boxes = torch.cat([self._decode(pred, level) for level, pred in enumerate(preds)], dim=1)
        return (boxes,) if self.export else (boxes, raw_preds)

    def _split_anchors(self, pred: Tensor) -> Tensor:
        """(B, na * no, H, W) -> (B, na, no, H, W)."""
        batch, _, height, width = pred.shape
        return pred.reshape(batch, self.na, self.no, height, width)

    def _predict(self, x: Sequence[Tensor]) -> Sequence[Tensor]:
        """Apply the 1x1 convolutions to the feature maps (B, C, H, W)."""
        convs: Any = self._modules.get("m") or ()  # pickles of release 1.0 have none
        return [conv(feature_map) for conv, feature_map in zip(convs, x, strict=True)] if len(convs) else x

    def _decode(self, pred: Tensor, level: int) -> Tensor:
        """(B, na*no, H, W) -> boxes (B, na*H*W, no): xy = (2 sig - 0.5 + cell) s, wh = (2 sig)^2 anchor.

        The sigmoid comes first because export runtimes fuse it with the convolution before it. Columns are
        concatenated before the permutation, while they are still planes.
        """
        pred = pred.to(_get_box_dtype(pred.dtype))
        cells, sizes, stride = self._get_grid(pred, level)
        scores, mask_coefs = self._split_anchors(pred.sigmoid()), self._split_anchors(pred)[:, :, 5 + self.nc :]
        stride = stride.view(-1, 1, 1) if stride.ndim else stride  # one value each for x and y, or a scalar
        xy = (scores[:, :, 0:2] * 2 + _move_last_axis(cells)) * stride
        wh = (scores[:, :, 2:4] * 2) ** 2 * _move_last_axis(sizes)
        columns = torch.cat((xy, wh, scores[:, :, 4 : 5 + self.nc], mask_coefs), dim=2)
        return columns.permute(0, 1, 3, 4, 2).flatten(1, 3)

    def _decode_inplace(self, raw_preds: Sequence[Tensor]) -> Tensor:
        """`_decode` of all levels, computed in the memory of the result: 5 to 10 times faster on the CPU."""
        counts = [raw.shape[1:4].numel() for raw in raw_preds]
        batch, dtype = raw_preds[0].shape[0], _get_box_dtype(raw_preds[0].dtype)
        boxes = raw_preds[0].new_empty(batch, sum(counts), self.no, dtype=dtype)
        parts = zip(boxes.split(counts, dim=1), raw_preds, strict=True)
        levels = [part.unflatten(1, raw.shape[1:4]) for part, raw in parts]
        for level, raw in zip(levels, raw_preds, strict=True):
            level.copy_(raw)
        boxes[..., : 5 + self.nc].sigmoid_()
        for index, level in enumerate(levels):
            cells, sizes, stride = self._get_grid(level, index)
            level[..., 0:2].mul_(2).add_(cells).mul_(stride)
            level[..., 2:4].mul_(2).square_().mul_(sizes)
        return boxes

    def _get_grid(self, pred: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cell offsets - 0.5 in cells (cached), anchor sizes in pixels, both broadcast to (B, na, H, W, 2); the stride.

        `pred` is (B, na*no, H, W) or (B, na, H, W, no): only axes 2 and 3 count.
        """
        height, width = pred.shape[2:4]
        shape = (1, self.na, height, width, 2)
        stride = self.stride[level].to(pred.dtype)  # type: ignore[index]
        pixels = self.anchors[level].to(pred.dtype) * stride
        sizes = pixels.view(1, self.na, 1, 1, 2).expand(shape)
        use_cache = not (self.dynamic or torch.compiler.is_compiling())
        cached = self.grid[level]  # read once: another thread may replace it at any time
        if use_cache and _can_reuse_grid(cached, pred):
            return cached, sizes, stride
        y = torch.arange(height, device=pred.device, dtype=pred.dtype) - 0.5
        x = torch.arange(width, device=pred.device, dtype=pred.dtype) - 0.5
        columns, rows = x.expand(height, width), y.unsqueeze(1).expand(height, width)
        cells = torch.stack((columns, rows), dim=2)  # (H, W, 2)
        # Not expanded in a graph: OpenVINO would take the batch size from an expanded operand.
        if not use_cache or torch.jit.is_tracing():
            return cells, pixels.view(self.na, 1, 1, 2), stride
        cells = cells.expand(shape)
        self.grid[level], self.anchor_grid[level] = cells, sizes
        return cells, sizes, stride

    def _make_grid(self, nx: int = 20, ny: int = 20, i: int = 0) -> tuple[Tensor, Tensor]:
        """Cell offsets - 0.5 and anchor sizes in pixels of level `i`, both (1, na, ny, nx, 2); scripts call it."""
        cells, sizes, _ = self._get_grid(self.anchors.new_empty(1, self.na, ny, nx), i)
        shape = (1, self.na, ny, nx, 2)
        return cells.expand(shape), sizes.expand(shape)

    def fill_grids(self, imgsz: int = GRID_IMAGE) -> None:
        """Fill `grid` and `anchor_grid` for square images; without that the first forward pass does it."""
        for level, stride in enumerate([] if self.stride is None else self.stride.tolist()):
            side = math.ceil(imgsz / stride)
            self.grid[level], self.anchor_grid[level] = self._make_grid(side, side, level)

    def _reset_grids(self) -> None:
        self.__dict__.update(_make_empty_grids(self.nl))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Detect:
        """Move or convert the head with its strides, which are not a buffer, and drop the cached grids.

        The anchors stay in FP32 or finer: rounded to half precision they would give other boxes.
        """
        exact_anchors = self.anchors
        super()._apply(fn, recurse)
        if self.anchors.dtype != _get_box_dtype(self.anchors.dtype):
            self.anchors = exact_anchors.to(self.anchors.device)
        if isinstance(self.stride, Tensor):
            self.stride = fn(self.stride)
        had_grids = all(grid.ndim == 5 for grid in self.grid)
        self._reset_grids()
        if had_grids and not self.anchors.is_meta:
            self.fill_grids()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave cached grids out of copies and pickles."""
        return {**self.__dict__, **_make_empty_grids(self.nl)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also takes the state of the original's heads, whose grids may have another offset or be a buffer."""
        super().__setstate__(state)
        self._buffers.pop("anchor_grid", None)
        if isinstance(grid := self.__dict__.get("grid"), list):
            self.__dict__.update(_make_empty_grids(len(grid)))


def _move_last_axis(x: Tensor) -> Tensor:
    """(..., H, W, 2) -> (..., 2, H, W), by an operator that all exporters have."""
    *others, height, width, last = range(x.ndim)
    return x.permute(*others, last, height, width)


def _is_recorded() -> bool:
    """Whether the operations are recorded for another run, which excludes work in the memory of earlier results."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _get_box_dtype(dtype: torch.dtype) -> torch.dtype:
    """FP32 or finer: beyond 512 pixels FP16 rounds coordinates to half a pixel, BF16 to four."""
    return torch.promote_types(dtype, torch.float32)


def _make_empty_grids(num_levels: int) -> dict[str, list[Tensor]]:
    """The cache attributes of a head before the first forward pass."""
    return {name: [torch.empty(0)] * num_levels for name in ("grid", "anchor_grid")}


def _can_reuse_grid(cached: Tensor, pred: Tensor) -> bool:
    """Whether the cached grid has the size, dtype and device of `pred` and may take part in autograd if needed."""
    return (
        cached.ndim == 5
        and cached.shape[2:4] == pred.shape[2:4]
        and cached.dtype == pred.dtype
        and cached.device == pred.device
        and (torch.is_inference_mode_enabled() or not cached.is_inference())
    )


class Segment(Detect):
    """`Detect` with `nm` mask coefficients per box and shared mask prototypes (YOLACT, arXiv:1904.02689).

    Args:
        nm: mask coefficients. npr: hidden channels of the prototype branch.

    Shape:
        no = 5 + nc + nm, coefficients without activation; prototypes (B, nm, H/4, W/4).
        training: (raw predictions, prototypes). evaluation: (boxes, prototypes, raw predictions).
        export: (boxes, prototypes).
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
        self.detect = Detect.forward  # other tools call the base class's forward through it

    def forward(self, x: Sequence[Tensor]) -> Any:
        prototypes = self.proto(x[0])
        output = super().forward(x)
        if self.training:
            return output, prototypes
        boxes, *raw_preds = output
        return boxes, prototypes, *raw_preds


NETWORK_LAYERS: dict[str, LayerSpec] = {
    **LAYERS,
    "Detect": LayerSpec(Detect, resolve_detect, many_inputs=True, supplied=("ch", "inplace")),
    "Segment": LayerSpec(Segment, resolve_segment, many_inputs=True, supplied=("ch", "inplace")),
}


class BaseModel(nn.Module):
    """Layers that run in order, each on the outputs that its attribute `f` lists.

    Attributes:
        model: the layers. save: indices of the layers whose output is needed later.
        yaml: model description. names: class names. nc: number of classes. inplace: option of the head.
        stride: strides of the head's levels, on the CPU.
        layer_table: layers that a model YAML may name.
        task: name of the task that trains such networks.
        semantic: classes of the semantic mask; None if there is no semantic head.
        checkpoint_activations: use activation checkpointing in training, see `models.activation_checkpointing`.
    """

    layer_table: ClassVar[Mapping[str, LayerSpec]] = NETWORK_LAYERS
    task: str
    model: nn.Sequential
    save: list[int]
    yaml: dict[str, Any]
    names: dict[int, str]
    stride: Tensor
    nc: int
    semantic: SemanticClasses | None = None
    checkpoint_activations = False

    @property
    def head(self) -> Any:
        """The last layer, except for `nms`."""
        last = self.model[-1]
        return self.model[-2] if isinstance(last, NMS) else last

    @property
    def semantic_head(self) -> Any:
        """The semantic head, or None."""
        return next((layer for layer in self.model if isinstance(layer, SemanticHead)), None)

    def align_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Another network's weights under the names that the layers have here; a subclass may rename."""
        return state_dict

    def _build(self, config: dict[str, Any], ch: int) -> None:
        """Build the layers of a loaded model YAML."""
        self.yaml = config
        self.yaml_file = str(config.get("yaml_file", ""))
        self.yaml["ch"] = self.yaml.get("ch", ch)
        self.model, self.save = parse_graph(self.yaml, self.yaml["ch"], self.layer_table)
        self.inplace = bool(self.yaml.get("inplace", True))
        set_norm_and_inplace(self)

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """Run the graph on (B, C, H, W) images in [0, 1].

        Args:
            augment: test-time augmentation, if the network supports it.
            profile: log the time of every layer.
            visualize: folder for images of the feature maps, or a function called with (layer, output) after every
                layer.
        """
        return self._run(x, profile, visualize)

    def forward_once(self, x: Tensor, profile: bool = False, visualize: Any = False) -> Any:
        """A forward pass without test-time augmentation (name in releases up to 5.0)."""
        return self._run(x, profile, visualize)

    def _run(self, x: Tensor, profile: bool = False, visualize: Visitor | str | Path | bool | None = False) -> Any:
        """Run the graph once."""
        if isinstance(visualize, str | Path) and str(visualize):
            visualize = import_project_module("utils.predict.predictor").build_feature_visitor(Path(visualize))
        outputs: dict[int, Any] = {}
        value: Any = x
        layer: Any
        use_checkpointing = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.model):
            inputs = _select_inputs(layer.f, index, value, outputs)
            if profile:
                self._profile_layer(layer, inputs)
            value = checkpoint_layer(layer, inputs) if use_checkpointing else layer(inputs)
            if index in self.save:
                outputs[index] = value
            if callable(visualize):
                visualize(layer, value)
        return self._collect_result(outputs, value)

    def _collect_result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        """The result of a pass, from the saved outputs and that of the last layer."""
        return last

    def probe_layers(self) -> list[tuple[Any, Any]]:
        """Every layer with its output, from a pass on an empty image; sets the stride of a semantic head.

        Raises:
            InputError: a layer does not accept its inputs, or returns an output over a limit.
        """
        outputs: list[tuple[Any, Any]] = []
        source = self.yaml_file or "model YAML"
        try:
            size_hw, heads = (STRIDE_PROBE, STRIDE_PROBE), (Detect, Segment)
            probe(self, size_hw, heads, visualize=lambda layer, output: outputs.append((layer, output)))
        except Exception as error:  # layers of torch may raise any
            row = self.model[len(outputs)]
            kind, reason = type(row).__name__, format_reason(error)
            raise InputError(
                f"{source}: row {row.i}: {kind} does not accept the outputs of rows {row.f}: {reason}"
            ) from error
        for row, output in outputs:
            _check_convolutions(row, f"{source}: row {row.i}")
            if isinstance(output, Tensor):
                what = f"values in the output for an image of {STRIDE_PROBE} px"
                check_limit(f"{source}: row {row.i}", what, output.numel(), MAX_OUTPUT)
        if (head := self.semantic_head) is not None:
            output = next(output for layer, output in outputs if layer is head)
            height = (output if isinstance(output, Tensor) else output[0]).shape[2]
            head.stride = head.stride * STRIDE_PROBE // height
        return outputs

    def _set_up_semantic_head(self) -> None:
        """Check that there is exactly one semantic head and set its classes."""
        heads = [layer for layer in self.model if isinstance(layer, SemanticHead)]
        if len(heads) != 1:
            raise InputError(
                f"{self.yaml_file or 'model YAML'}: {len(heads)} semantic heads; use exactly one row of "
                f"{', '.join(SEMANTIC_HEADS)}"
            )
        head: Any = heads[0]
        self.semantic = SemanticClasses.from_count(head.nc)
        self.save = sorted({*self.save, self.head.i, head.i})  # results, whichever row they come from

    def _make_tta_views(self, x: Tensor) -> Iterator[tuple[Tensor, tuple[float, bool]]]:
        """Images of test-time augmentation, each with (scale, mirrored)."""
        stride = int(torch.as_tensor(self.stride).max())
        for scale, mirrored in TTA_VIEWS:
            yield rescale_images(x.flip(3) if mirrored else x, scale, stride), (scale, mirrored)

    def _profile_layer(self, layer: Any, inputs: Any, repeats: int = 10) -> None:
        """Log the mean time of a layer, in milliseconds."""
        start = _get_synchronized_time(inputs)
        for _ in range(repeats):
            layer(inputs)
        milliseconds = (_get_synchronized_time(inputs) - start) * 1000 / repeats
        LOGGER.info(f"{milliseconds:10.2f} ms {layer.np:10d} parameters  {layer.i:3d} {layer.type}")

    def fuse(self) -> BaseModel:
        """Fuse convolutions with their batch norms, for inference; returns the model itself."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self

    def autoshape(self) -> nn.Module:
        """This network in an `AutoShape`, which takes images and returns `Detections` (releases up to 6.0)."""
        return import_project_module("utils.predict.autoshape").AutoShape(self)

    def nms(self, mode: bool = True) -> BaseModel:
        """Append non-maximum suppression as the last layer, or remove it (releases up to 5.0); returns the model."""
        last: Any = self.model[-1]
        if mode and not isinstance(last, NMS):
            layer: Any = NMS()
            layer.i, layer.f, layer.np, layer.type = last.i + 1, -1, 0, "models.common.NMS"
            self.model.append(layer.train(self.training))
        elif isinstance(last, NMS) and not mode:
            del self.model[-1]
        return self

    def info(self, verbose: bool = False, img_size: int | Sequence[int] = 640) -> None:
        """Log layers, parameters and GFLOPs; with `verbose` also every parameter. `img_size`: size or (h, w)."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        LOGGER.info(format_model_summary(self, (height, width), verbose=verbose, name=getattr(self, "yaml_file", "")))

    def iter_head_convs(self) -> Iterator[tuple[Any, float]]:
        """The head's 1x1 convolutions, each with its stride."""
        head = self.head
        convs = head.m if len(head.m) else [self.model[i if i >= 0 else head.i + i] for i in head.f]
        return zip(convs, head.stride.tolist(), strict=True)


def _check_convolutions(layer: nn.Module, place: str) -> None:
    """InputError for sizes that meta tensors accept, but no computation."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            padding = (0, 0) if isinstance(module.padding, str) else module.padding
            groups = (module.kernel_size, module.stride, module.dilation, padding)
            if any(len(pair) != 2 for pair in groups) or min(map(min, groups[:3])) < 1 or min(padding) < 0:
                raise InputError(f"{place}: {module} has a size below 1, a padding below 0, or not two of each")


def _load_with_overrides(cfg: str | Path | Mapping[str, Any], **values: int | None) -> dict[str, Any]:
    """The loaded model YAML, its values replaced by those that are not None."""
    config = load_model_yaml(cfg)
    for key, value in values.items():
        if value is not None and value != config.get(key):
            LOGGER.info(f"{config.get('yaml_file') or 'model YAML'}: overriding {key} {config.get(key)} with {value}")
            config[key] = value
    return config


def _select_inputs(origin: int | list[int], index: int, previous: Any, outputs: Mapping[int, Any]) -> Any:
    """Inputs of layer `index`: one output for a number, a list for a list."""
    if isinstance(origin, int):
        return previous if origin == -1 else outputs[origin % index]
    return [previous if i == -1 else outputs[i % index] for i in origin]


def _get_synchronized_time(inputs: Any) -> float:
    """Seconds, after synchronizing the device of `inputs`."""
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    if first.is_cuda:
        torch.cuda.synchronize(first.device)
    return time.perf_counter()


class DetectionModel(BaseModel):
    """A detector built from a model YAML.

    Args:
        cfg: path, shipped name or mapping.
        ch: input channels, unless set in the YAML.
        nc: number of classes, overrides the YAML.
        anchors: number of anchors per level, overrides the YAML; their sizes are placeholders for autoanchor.

    Raises:
        utils.core.errors.InputError: invalid model YAML.
    """

    task = "detect"

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
    ) -> None:
        super().__init__()
        self._build(_load_with_overrides(cfg, nc=nc, anchors=None if anchors is None else round(anchors)), ch)
        self.nc = self.yaml["nc"]
        self.names = {i: str(i) for i in range(self.nc)}
        self._set_up_head()

    def _set_up_head(self) -> None:
        """Set strides, scale anchors to stride units and initialize biases."""
        head = self.head
        for row in self.model:
            if isinstance(row, Detect) and row is not head:
                place = f"{self.yaml_file or 'model YAML'}: row {row.i}"
                raise InputError(f"{place}: {type(row).__name__} must be the last row")
        if not isinstance(head, Detect):
            self.stride = torch.tensor([32.0], device="cpu")
            return
        if head.nc != self.nc:
            place = f"{self.yaml_file or 'model YAML'}: row {head.i}"
            raise InputError(f"{place}: {head.nc} classes, but nc is {self.nc}; write nc in the row")
        head.inplace = self.inplace
        strides = self._compute_strides()
        head.stride = self.stride = torch.tensor(strides, device="cpu")
        anchors = self.yaml.get("anchors")
        if isinstance(anchors, list) and _is_reversed([math.prod(a[:2]) for a in anchors], strides):
            head.anchors = head.anchors.flip(0)
        head.anchors /= self.stride.to(head.anchors.device).view(-1, 1, 1)
        self.initialize_biases()

    def _compute_strides(self) -> list[float]:
        """Stride of every level, from the sizes of the raw predictions."""
        output = next(output for layer, output in self.probe_layers() if layer is self.head)
        raw_preds = output[0] if isinstance(output, tuple) else output
        return [STRIDE_PROBE / raw.shape[2] for raw in raw_preds]

    @torch.no_grad()
    def initialize_biases(self) -> None:
        """Set prior probabilities: 8 objects per level of a 640 px image, uniform classes (arXiv:1708.02002)."""
        head = self.head
        for conv, stride in self.iter_head_convs():
            if not isinstance(conv, nn.Conv2d) or conv.bias is None:
                row, source = self.head.i, self.yaml_file or "model YAML"
                raise InputError(f"{source}: row {row}: its inputs must be those of nn.Conv2d with a bias")
            bias = conv.bias.view(head.na, -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5 : 5 + head.nc] += math.log(0.6 / (head.nc - 0.99999))

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """See `BaseModel.forward`; with `augment` ((B, N, no), None) from three scales, the second mirrored."""
        return self._run_augmented(x) if augment else self._run(x, profile, visualize)

    def _run_augmented(self, x: Tensor) -> Any:
        """Boxes of all views of test-time augmentation, in pixels of `x`."""
        boxes = [self._restore_view(self._run(image), x, *view) for image, view in self._make_tta_views(x)]
        return torch.cat(boxes, dim=1), None

    def _restore_view(self, output: tuple[Tensor, list[Tensor]], x: Tensor, scale: float, mirrored: bool) -> Tensor:
        """Boxes of one view in pixels of `x`; the largest view omits the coarsest level, the smallest the finest."""
        boxes, raw_preds = output
        strides = self.head.stride.tolist()
        dropped = {TTA_VIEWS[0]: max(strides), TTA_VIEWS[-1]: min(strides)}.get((scale, mirrored))
        levels = boxes.split([raw.shape[1:4].numel() for raw in raw_preds], dim=1)
        used = [rows for rows, stride in zip(levels, strides, strict=True) if stride != dropped or len(levels) == 1]
        return _restore_boxes(torch.cat(used, dim=1), scale, x.shape[3] if mirrored else None)


Model = DetectionModel  # class name in checkpoints of releases before 6.2


def parse_model(d: Mapping[str, Any], ch: int | Sequence[int]) -> tuple[nn.Sequential, list[int]]:
    """The layers of a model YAML, and the sorted indices of those whose output is needed later.

    Args:
        d: content of the YAML. ch: input channels, as a number or in a list.

    Raises:
        InputError: invalid model YAML.
    """
    channels = ch if isinstance(ch, int) else list(ch)[-1]
    return parse_graph(load_model_yaml(d), channels, NETWORK_LAYERS)


def _is_reversed(sizes: Sequence[float], strides: Sequence[float]) -> bool:
    """Whether anchor sizes decrease while strides increase, or the other way round."""
    return (sizes[-1] - sizes[0]) * (strides[-1] - strides[0]) < 0


def set_norm_and_inplace(model: nn.Module) -> None:
    """Set the batch-norm constants of the training recipe, and make activations in-place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, nn.Hardswish | nn.LeakyReLU | nn.ReLU | nn.ReLU6 | nn.SiLU):
            module.inplace = True


def _restore_logits(logits: Tensor, x: Tensor, scale: float, mirrored: bool) -> Tensor:
    """Semantic logits (B, n, H', W') of a rescaled, padded and possibly mirrored view at the size of `x`."""
    height, width = x.shape[2:]
    logits = logits.float()
    if scale != 1:
        logits = logits[:, :, : int(height * scale), : int(width * scale)]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return logits.flip(3) if mirrored else logits


def rescale_images(images: Tensor, scale: float, stride: int) -> Tensor:
    """Resize images by `scale` and pad them right and below to multiples of `stride`."""
    if scale == 1:
        return images
    height, width = images.shape[2:]
    resized = F.interpolate(images, (int(height * scale), int(width * scale)), mode="bilinear", align_corners=False)
    padded_h, padded_w = (math.ceil(side * scale / stride) * stride for side in (height, width))
    right, below = padded_w - resized.shape[3], padded_h - resized.shape[2]
    return F.pad(resized, (0, right, 0, below), value=TTA_PADDING)


def _restore_boxes(boxes: Tensor, scale: float, mirrored_width: int | None) -> Tensor:
    """Decoded boxes (B, N, no) of a rescaled and possibly mirrored view, in pixels of the original image."""
    xywh = boxes[..., :4] / scale
    if mirrored_width is not None:
        x = mirrored_width - xywh[..., :1]
        xywh = torch.cat((x, xywh[..., 1:]), dim=-1)
    return torch.cat((xywh, boxes[..., 4:]), dim=-1)


class SegmentationModel(DetectionModel):
    """An instance segmentation network built from a model YAML whose head is `Segment`."""

    task = "segment"

    _tta_warned = False

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s-seg.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
    ) -> None:
        super().__init__(cfg, ch, nc, anchors)

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """See `BaseModel.forward`; `augment` is ignored with a warning: prototypes of several scales do not combine."""
        if augment and not self._tta_warned:
            LOGGER.warning("segmentation does not support test-time augmentation; running without it")
            self._tta_warned = True
        return self._run(x, profile, visualize)


class JointModel(DetectionModel):
    """A detection head and a semantic head on a shared backbone and neck, in either order.

    Args:
        n_segcls: number of semantic classes, overrides the YAML. Others: see `DetectionModel`.
    """

    task = "joint"

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s-psp.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
        n_segcls: int | None = None,
    ) -> None:
        super().__init__(_load_with_overrides(cfg, n_segcls=n_segcls), ch, nc, anchors)

    @property
    def head(self) -> Any:
        """The detection head."""
        return next(layer for layer in self.model if isinstance(layer, Detect))

    def align_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A detector's weights, with layer numbers shifted where the semantic head lies between its layers."""
        place = self.semantic_head.i
        layers = {key: int(match[1]) for key in state_dict if (match := LAYER_KEY.match(key))}
        if max(layers.values(), default=0) + 2 != len(self.model):
            return state_dict
        renamed = {key: LAYER_KEY.sub(f"model.{layer + 1}.", key) for key, layer in layers.items() if layer >= place}
        return {renamed.get(key, key): value for key, value in state_dict.items()}

    def _set_up_head(self) -> None:
        self._set_up_semantic_head()
        super()._set_up_head()

    def _collect_result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        """Outputs of both heads; a flat tuple for export."""
        detection, semantic = outputs[self.head.i], outputs[self.semantic_head.i]
        return (*detection, semantic) if self.head.export and not self.training else JointOutput(detection, semantic)

    def _run_augmented(self, x: Tensor) -> JointOutput:
        """Boxes of all views, and the mean of their semantic probabilities."""
        views = [(self._run(image), view) for image, view in self._make_tta_views(x)]
        boxes = torch.cat([self._restore_view(output.detection, x, *view) for output, view in views], dim=1)
        logits = average_logits(_restore_logits(output.semantic, x, *view) for output, view in views)
        return JointOutput((boxes, None), logits)


class SemanticModel(BaseModel):
    """A semantic segmentation network.

    Args:
        cfg: path, shipped name or mapping.
        ch: input channels, unless set in the YAML.
        n_segcls: number of classes, overrides the YAML.

    Shape:
        (B, C, H, W) -> logits (B, n_segcls, H, W); a list of them in training if the head has auxiliary outputs.
    """

    task = "semantic"

    def __init__(
        self, cfg: str | Path | Mapping[str, Any] = "yolov5s-sem.yaml", ch: int = 3, n_segcls: int | None = None
    ) -> None:
        super().__init__()
        self._build(_load_with_overrides(cfg, n_segcls=n_segcls), ch)
        self._set_up_semantic_head()
        self.nc = self.yaml["nc"] = self.head.nc
        self.names = {i: str(i) for i in range(self.nc)}
        coarsest = min(output.shape[2] for _, output in self.probe_layers() if isinstance(output, Tensor))
        self.stride = torch.tensor([STRIDE_PROBE / coarsest], device="cpu")

    @property
    def head(self) -> Any:
        """The semantic head."""
        return self.semantic_head

    def _collect_result(self, outputs: Mapping[int, Any], last: Any) -> Any:
        return outputs[self.head.i]

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> Any:
        """See `BaseModel.forward`; `augment` averages three scales, the second mirrored."""
        if not augment:
            return self._run(x, profile, visualize)
        return average_logits(_restore_logits(self._run(image), x, *view) for image, view in self._make_tta_views(x))


class ClassificationModel(BaseModel):
    """The first layers of a detector, the last of them replaced by a `Classify` head.

    Args:
        cfg: model YAML of the detector, used if `model` is None.
        model: a detector, whose layers are taken, not copied.
        nc: number of classes.
        cutoff: number of layers, including the head.
    """

    task = "classify"

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
        _share_activation(head, replaced)  # its batch norm keeps torch's constants, as in the released classifiers
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
    """Input channels of a block, from its first convolution."""
    convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
    if not convs:
        raise ValueError(f"{type(layer).__name__} has no convolution to replace; choose another cutoff")
    return convs[0].in_channels


def _share_activation(head: Classify, neighbor: nn.Module) -> None:
    """Give the head the activation object of the detector's Conv blocks."""
    for module in neighbor.modules():
        if isinstance(module, Conv):
            head.conv.act = module.act
            return


def check_image_size(imgsz: int, stride: int) -> int:
    """Round `imgsz` up to a multiple of the largest stride, with a warning if that changes it."""
    rounded = max(math.ceil(imgsz / stride), 1) * stride
    if rounded != imgsz:
        LOGGER.warning(f"image size {imgsz} is not a multiple of the largest stride {stride}; using {rounded}")
    return rounded


LAZY_EXPORTS = {  # names that other programs import from here, as the original imports them
    **dict.fromkeys(
        (
            *("AutoShape", "Bottleneck", "BottleneckCSP", "C3", "C3Ghost", "C3SPP", "C3TR", "C3x", "Concat"),
            *("Contract", "CrossConv", "DWConv", "DWConvTranspose2d", "DetectMultiBackend", "Detections", "Expand"),
            *("Focus", "GhostBottleneck", "GhostConv", "SPP", "SPPF", "TransformerBlock", "TransformerLayer"),
            *("autoShape", "autopad", "letterbox", "non_max_suppression", "scale_coords", "xyxy2xywh"),
        ),
        "models.common",
    ),
    **dict.fromkeys(("Ensemble", "MixConv2d", "Sum", "attempt_download", "attempt_load"), "models.experimental"),
    **dict.fromkeys(
        (
            *("check_file", "check_requirements", "check_version", "check_yaml", "colorstr", "make_divisible"),
            *("print_args", "set_logging"),
        ),
        "utils.general",
    ),
    **dict.fromkeys(
        (
            *("copy_attr", "fuse_conv_and_bn", "initialize_weights", "model_info", "profile", "scale_img"),
            *("select_device", "time_sync", "time_synchronized"),
        ),
        "utils.torch_utils",
    ),
    "check_anchor_order": "utils.autoanchor",
    "feature_visualization": "utils.plots",
    **{name: OUTSIDE[name] for name in ("argparse", "contextlib", "cv2", "deepcopy", "logging", "np", "os", "pd")},
    **{name: OUTSIDE[name] for name in ("platform", "sys")},
}
_get_export = lazy_exports(__name__, LAZY_EXPORTS)
INTERNAL = {"Any", "Callable", "ClassVar", "Iterator", "Mapping", "OUTSIDE", "Sequence", "annotations", "copy"}
__all__ = [name for name in globals() if name[0] != "_" and name not in INTERNAL]
__all__ += LAZY_EXPORTS


def __getattr__(name: str) -> Any:
    return _get_export(name)
