"""Non-maximum suppression as a part of the exported graph, with the results of utils.ops.nms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from utils.backends.packages import import_runtime
from utils.ops.boxes import xywh_to_xyxy

ONNX_OP = "openyolov5::kept_by_nms"


class GraphNms(nn.Module):
    """Decoded rows to detections: best class of each box, greedy NMS per class or, `agnostic`, over all classes.

    Traced (TorchScript, CoreML) it calls `torchvision::nms`; exported by `torch.export` it is one operator of its own,
    for which `onnx_translation` gives ONNX's NonMaxSuppression.

    Args:
        num_classes: class columns of a row.
        conf_thres: a score must exceed it.
        iou_thres: a box is dropped when its IoU with a better one exceeds it.
        max_det: rows of the result.

    Shape:
        (B, N, 5 + num_classes) x, y, w, h in pixels, objectness, class probabilities -> (B, max_det, 6) x1, y1, x2,
        y2, score, class, best first; unused rows are zero.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        conf_thres: float = 0.25,
        iou_thres: float = 0.45,
        max_det: int = 100,
        agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.max_det, self.agnostic = num_classes, max_det, agnostic
        self.conf_thres, self.iou_thres = conf_thres, iou_thres

    def forward(self, decoded: Tensor) -> Tensor:
        decoded = decoded.float()
        boxes = xywh_to_xyxy(decoded[..., :4])  # (B, N, 4)
        scores, classes = (decoded[..., 5 : 5 + self.num_classes] * decoded[..., 4:5]).max(dim=-1)  # both (B, N)
        groups = torch.zeros_like(classes) if self.agnostic else classes
        num_groups = 1 if self.agnostic else self.num_classes
        find: Any = torch.ops.openyolov5.kept_by_nms if torch.compiler.is_exporting() else kept_by_nms
        kept = find(boxes, scores, groups, num_groups, self.conf_thres, self.iou_thres, self.max_det)
        rows = torch.cat((boxes, scores[..., None], classes[..., None].float()), dim=-1)
        spare = rows.new_zeros(rows.shape[0], self.max_det, 6)  # fewer rows than max_det where the input is small
        rows = torch.cat((torch.where(kept[..., None], rows, 0.0), spare), dim=1)
        best = rows[..., 4].topk(self.max_det, dim=1).indices  # (B, max_det)
        return rows.gather(1, best[..., None].expand(-1, -1, 6))


def kept_by_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, conf_thres: float, iou_thres: float, max_det: int
) -> Tensor:
    """(B, N) bool: the boxes that greedy NMS keeps, of those that score above `conf_thres`.

    Args:
        boxes: (B, N, 4) corners.
        scores, groups: (B, N); boxes of different groups (int64 below `num_groups`) do not suppress each other.
        max_det: more than this need not be kept per image and group; not made use of here.
    """
    image, row = (scores > conf_thres).nonzero(as_tuple=True)
    chosen, chosen_scores = boxes[image, row].double(), scores[image, row].double()
    reach = boxes.abs().max().double() * 2 + 1  # groups and images are moved apart; float64 keeps the boxes exact
    apart = (image * num_groups + groups[image, row]).double() * reach
    survivors = torchvision.ops.nms(chosen + apart[:, None], chosen_scores, iou_thres)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[image[survivors], row[survivors]] = True
    return kept


_operator = torch.library.custom_op(
    ONNX_OP,
    kept_by_nms,
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, Tensor groups, int num_groups, float conf_thres, float iou_thres, "
    "int max_det) -> Tensor",
)


@_operator.register_fake
def _shape_only(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` for torch.onnx.export: the operator in terms of ONNX."""
    op: Any = import_runtime("onnxscript", needed_for="ONNX exports").opset18

    def kept_in_onnx(
        boxes: Any, scores: Any, groups: Any, num_groups: int, conf_thres: float, iou_thres: float, max_det: int
    ) -> Any:
        """As `kept_by_nms`: every group is one of NonMaxSuppression's classes, with scores of its own boxes only."""
        numbers = op.Constant(value_ints=list(range(num_groups)))
        own = op.Equal(op.Unsqueeze(groups, [1]), op.Reshape(numbers, [1, num_groups, 1]))  # (B, groups, N)
        group_scores = op.Where(own, op.Unsqueeze(scores, [1]), op.Constant(value_float=0.0))
        selected = op.NonMaxSuppression(boxes, group_scores, [max_det], [iou_thres], [conf_thres])
        places = op.Gather(selected, [0, 2], axis=1)  # of image, group, row
        flags = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(places), [0], [1]))
        return op.Greater(op.ScatterND(flags, places, ones), op.Constant(value_float=0.5))

    return {torch.ops.openyolov5.kept_by_nms.default: kept_in_onnx}
