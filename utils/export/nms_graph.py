"""Non-maximum suppression in exported graphs, with the results of utils.ops.nms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from utils.core.packages import import_runtime
from utils.ops.boxes import xywh_to_xyxy

NMS_OPERATOR = "openyolov5::nms_mask"


class GraphNms(nn.Module):
    """Best class of each box, then greedy NMS per class, or over all classes if `agnostic`.

    TorchScript traces `torchvision::nms`. `torch.export` records a custom operator, which `build_onnx_translation` maps
    to NonMaxSuppression of ONNX.

    Args:
        num_classes: class columns of a row.
        conf_thres: scores must exceed it.
        iou_thres: a box is dropped when its IoU with a better one exceeds it.
        max_det: rows of the output.

    Shape:
        (B, N, 5 + num_classes) x, y, w, h in pixels, objectness, class probabilities -> (B, max_det, 6) x1, y1, x2,
        y2, score, class, sorted by score; unused rows are zero.
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
        select: Any = torch.ops.openyolov5.nms_mask if torch.compiler.is_exporting() else nms_mask
        mask = select(boxes, scores, groups, num_groups, self.conf_thres, self.iou_thres, self.max_det)
        rows = torch.cat((boxes, scores[..., None], classes[..., None].float()), dim=-1)
        padding = rows.new_zeros(rows.shape[0], self.max_det, 6)  # small inputs have fewer than max_det rows
        rows = torch.cat((torch.where(mask[..., None], rows, 0.0), padding), dim=1)
        best = rows[..., 4].topk(self.max_det, dim=1).indices  # (B, max_det)
        return rows.gather(1, best[..., None].expand(-1, -1, 6))


def nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, conf_thres: float, iou_thres: float, max_det: int
) -> Tensor:
    """(B, N) bool mask of the boxes that pass the confidence threshold and greedy NMS.

    Args:
        boxes: (B, N, 4) corners.
        scores, groups: (B, N); boxes of different groups, int64 in [0, num_groups), do not suppress each other.
        max_det: unused here; limit per image and group of the ONNX translation.
    """
    image, row = (scores > conf_thres).nonzero(as_tuple=True)
    candidates, candidate_scores = boxes[image, row].double(), scores[image, row].double()
    reach = boxes.abs().max().double() * 2 + 1  # groups and images are moved apart; float64 keeps the boxes exact
    offsets = (image * num_groups + groups[image, row]).double() * reach
    indices = torchvision.ops.nms(candidates + offsets[:, None], candidate_scores, iou_thres)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[image[indices], row[indices]] = True
    return mask


_operator = torch.library.custom_op(
    NMS_OPERATOR,
    nms_mask,
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, Tensor groups, int num_groups, float conf_thres, float iou_thres, "
    "int max_det) -> Tensor",
)


@_operator.register_fake
def _shape_only(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def build_onnx_translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Build the `custom_translation_table` of torch.onnx.export for the custom operator."""
    op: Any = import_runtime("onnxscript", needed_for="ONNX exports").opset18

    def onnx_nms_mask(
        boxes: Any, scores: Any, groups: Any, num_groups: int, conf_thres: float, iou_thres: float, max_det: int
    ) -> Any:
        """As `nms_mask`: each group is a class of NonMaxSuppression, with scores for the boxes of the group only."""
        indices = op.Constant(value_ints=list(range(num_groups)))
        in_group = op.Equal(op.Unsqueeze(groups, [1]), op.Reshape(indices, [1, num_groups, 1]))  # (B, groups, N)
        group_scores = op.Where(in_group, op.Unsqueeze(scores, [1]), op.Constant(value_float=0.0))
        selected = op.NonMaxSuppression(boxes, group_scores, [max_det], [iou_thres], [conf_thres])
        positions = op.Gather(selected, [0, 2], axis=1)  # image and row of (image, group, row)
        flags = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(positions), [0], [1]))
        return op.Greater(op.ScatterND(flags, positions, ones), op.Constant(value_float=0.5))

    return {torch.ops.openyolov5.nms_mask.default: onnx_nms_mask}
