"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from utils.core.errors import InputError
from utils.core.types import NMSOutput
from utils.ops.boxes import xywh_to_xyxy
from utils.ops.nms_kernel import load_nms_kernel

NUM_RANKED_FIRST = 4096  # candidates; the others are ranked only if these leave too few detections
MIN_CHUNK, MAX_CHUNK = 512, 4096  # candidates per call of NMS
CLASS_GROUPS = 6
MIN_GROUPED_ROWS = 256


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor] | NMSOutput,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Detections of every image by greedy NMS, best first; exact, without a limit on time or candidates.

    Greedy NMS keeps boxes in order of score, so its first `max_det` detections depend on no candidate ranked after the
    last of them: candidates are processed in chunks, best first, until there are enough detections. Memory is linear
    in the number of candidates.

    Args:
        prediction: (B, N, 5 + num_classes + nm) rows x, y, w, h in pixels, objectness, class probabilities, `nm` mask
            coefficients; or a sequence that starts with this tensor (what a head in evaluation mode returns). Any
            device and float type; computed in float32 or finer. Or the output of a network with built-in NMS, which
            is only filtered (`select_detections`).
        conf_thres: minimum of objectness * class probability, exclusive, in [0, 1].
        iou_thres: drop a box whose IoU with a better one exceeds it, in [0, 1].
        classes: keep boxes whose best class is one of these; with `multi_label`, all candidates of these classes.
        agnostic: boxes of different classes suppress each other, too.
        multi_label: one candidate per class above the threshold instead of the best class only.
        labels: per image (n, 5) class, x, y, w, h in pixels of known objects, added as candidates of score 1.
        max_det: detections kept per image.
        nm: number of mask coefficients at the end of each row.

    Returns:
        B tensors (n, 6 + nm): x1, y1, x2, y2, score, class, coefficients times objectness; equal scores keep the order
        of `prediction`.

    Raises:
        InputError: a threshold outside [0, 1] or `max_det` below 1.
    """
    _check_settings(conf_thres, iou_thres, max_det)
    if isinstance(prediction, NMSOutput):
        return select_detections(prediction, conf_thres, classes, max_det)
    decoded = prediction if isinstance(prediction, Tensor) else prediction[0]
    find_candidates = _find_candidates_numpy if decoded.device.type == "cpu" else _find_candidates
    candidates = find_candidates(decoded.detach(), conf_thres, classes, multi_label, nm)
    if len(labels):
        candidates = [_append_labels(rows, known) for rows, known in zip(candidates, labels, strict=True)]
    return [_suppress(rows, iou_thres, agnostic, max_det) for rows in candidates]


def select_detections(
    suppressed: NMSOutput, conf_thres: float = 0.25, classes: Sequence[int] | None = None, max_det: int = 300
) -> list[Tensor]:
    """Filter the detections of a network with built-in NMS: (n, 6) per image."""
    detections = []
    for rows in suppressed.rows.float():
        selected = rows[:, 4] > conf_thres
        if classes is not None:
            selected &= torch.isin(rows[:, 5], rows.new_tensor([float(c) for c in classes]))
        detections.append(rows[selected][:max_det])
    return detections


def _check_settings(conf_thres: float, iou_thres: float, max_det: int) -> None:
    for name, value in (("confidence threshold", conf_thres), ("IoU threshold", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} {value}: must be between 0 and 1")
    if max_det < 1:
        raise InputError(f"max_det {max_det}: must be at least 1")


def _find_candidates(
    decoded: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool, nm: int
) -> Sequence[Tensor]:
    """Candidates above the threshold, not ranked: per image (K, 6 + nm) xyxy, score, class, coefficients * objectness.

    A score never exceeds the objectness, so the other columns are read only for rows of sufficient objectness.
    """
    num_images, num_rows, width = decoded.shape
    num_classes = width - 5 - nm
    indices = (decoded[..., 4].reshape(-1).float() > conf_thres).nonzero()[:, 0]
    rows = decoded.reshape(-1, width).index_select(0, indices).float()
    scores = rows[:, 5 : 5 + num_classes] * rows[:, 4:5]  # (R, num_classes)
    if multi_label and num_classes > 1:
        above = (scores > conf_thres).flatten().nonzero()[:, 0]  # flat: much faster than index pairs
        row, label = above // num_classes, above % num_classes
        score = scores.flatten()[above]
    else:
        score, label = scores.max(dim=1)
        row = (score > conf_thres).nonzero()[:, 0]
        score, label = score[row], label[row]
    if classes is not None:
        wanted = torch.isin(label, label.new_tensor([int(c) for c in classes]))
        row, label, score = row[wanted], label[wanted], score[wanted]
    selected = rows.index_select(0, row) if nm else rows[:, :5].index_select(0, row)
    boxes, coefficients = xywh_to_xyxy(selected[:, :4]), selected[:, width - nm :] * selected[:, 4:5]
    candidates = torch.cat((boxes, score[:, None], label[:, None].float(), coefficients), dim=1)
    counts = torch.bincount(indices[row] // num_rows, minlength=num_images)
    return candidates.split(counts.tolist())


def _find_candidates_numpy(
    decoded: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool, nm: int
) -> Sequence[Tensor]:
    """As `_find_candidates`, for the CPU: twice as fast, and not slowed down by other processes."""
    num_classes = decoded.shape[2] - 5 - nm
    candidates = []
    for image in decoded.float().numpy():
        rows = image[np.flatnonzero(image[:, 4] > conf_thres)]
        scores = rows[:, 5 : 5 + num_classes] * rows[:, 4:5]  # (R, num_classes)
        if multi_label and num_classes > 1:
            row, label = np.divmod(np.flatnonzero(scores > conf_thres), num_classes)
        else:
            label = scores.argmax(axis=1)
            row = np.flatnonzero(scores[np.arange(len(rows)), label] > conf_thres)
            label = label[row]
        if classes is not None:
            wanted = np.isin(label, [int(c) for c in classes])
            row, label = row[wanted], label[wanted]
        coefficients = rows[row, 5 + num_classes :] * rows[row, 4:5]
        columns = (xywh_to_xyxy(rows[row, :4]), scores[row, label, None], label[:, None], coefficients)
        candidates.append(torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32)))
    return candidates


def _append_labels(candidates: Tensor, known: Tensor) -> Tensor:
    """Append known objects (n, 5) class, xywh as candidates of score 1 with zero coefficients."""
    known = known.to(candidates)
    extra = candidates.new_zeros(len(known), candidates.shape[1])
    extra[:, :4], extra[:, 4], extra[:, 5] = xywh_to_xyxy(known[:, 1:5]), 1, known[:, 0]
    return torch.cat((candidates, extra))


def _suppress(candidates: Tensor, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """The first `max_det` detections of greedy NMS on one image's candidates.

    Earlier detections are put before the next chunk: they do not suppress each other, so NMS returns them again.
    """
    detections, num_processed = candidates[:0], 0
    for ranked in _iter_ranked(candidates):
        start = 0
        while start < len(ranked) and len(detections) < max_det:
            end = start + _chunk_size(len(detections), num_processed, max_det)
            rows = torch.cat((detections, ranked[start:end]))
            detections = rows[_nms(rows, iou_thres, agnostic)[:max_det]]
            num_processed += end - start
            start = end
        if len(detections) == max_det:
            break
    return detections


def _chunk_size(num_detections: int, num_processed: int, max_det: int) -> int:
    """Size of the next chunk: 1.3 times what should give the missing detections at the rate so far."""
    if not num_processed:
        return 3 * max_det
    return min(max(int(1.3 * (max_det - num_detections) * num_processed / num_detections), MIN_CHUNK), MAX_CHUNK)


def _iter_ranked(candidates: Tensor) -> Iterator[Tensor]:
    """Candidates by score, in two parts: the top k (and those that tie with the last of them), then the others."""
    if len(candidates) > NUM_RANKED_FIRST:
        last = candidates[:, 4].topk(NUM_RANKED_FIRST, sorted=False).values.min()
        is_top = candidates[:, 4] >= last
        yield _sort_by_score(candidates[is_top])
        candidates = candidates[~is_top]
    yield _sort_by_score(candidates)


def _sort_by_score(candidates: Tensor) -> Tensor:
    """Sort by falling score, stably."""
    return candidates[candidates[:, 4].argsort(descending=True, stable=True)]


def _nms(ranked: Tensor, iou_thres: float, agnostic: bool) -> Tensor:
    """Rising indices of the rows that greedy NMS keeps, of rows sorted by score.

    On the CPU most time goes into comparing pairs of different classes, so many rows are split into groups of classes.
    """
    nms = load_nms_kernel()
    boxes, scores, classes = ranked[:, :4].double(), ranked[:, 4].double(), ranked[:, 5]
    if agnostic or not len(ranked):
        return nms(boxes, scores, iou_thres)
    boxes = _offset_by_class(boxes, classes)
    if len(boxes) < MIN_GROUPED_ROWS or boxes.is_cuda:
        return nms(boxes, scores, iou_thres)
    groups = classes.long() % CLASS_GROUPS
    group_rows = groups.argsort(stable=True).split(torch.bincount(groups).tolist())
    keep = [rows[nms(boxes[rows], scores[rows], iou_thres)] for rows in group_rows if len(rows)]
    return torch.cat(keep).sort().values


def _offset_by_class(boxes: Tensor, classes: Tensor) -> Tensor:
    """Shift boxes (float64) by class so that boxes of different classes do not overlap.

    In float32 the shift would cost up to 1/16 pixel at class 79.
    """
    offset = boxes.abs().nan_to_num(posinf=0.0).max() * 2 + 1
    return boxes + (classes.double() * offset)[:, None]
