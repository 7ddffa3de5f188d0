"""Non-maximum suppression: from decoded head output to the detections of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torchvision
from torch import Tensor

from utils.core.errors import InputError
from utils.core.types import Suppressed
from utils.ops.boxes import xywh_to_xyxy

SORTED_FIRST = 4096  # candidates ranked at first; the others are only where these leave too few survivors
MIN_CHUNK, MAX_CHUNK = 512, 4096  # candidates worked off at a time
CLASS_GROUPS = 6
WORTH_GROUPING = 256  # rows


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor] | Suppressed,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Detections of every image, best first: greedy NMS, exact, with no limit on time or on candidates.

    Greedy suppression keeps boxes in order of score, so its first `max_det` survivors depend on no candidate ranked
    after the last of them: candidates are worked off best first, in chunks, and the work ends with enough survivors.
    Memory grows linearly with the number of candidates.

    Args:
        prediction: (B, N, 5 + num_classes + nm) rows x, y, w, h in pixels, objectness, class probabilities, `nm` mask
            coefficients; or a sequence that starts with this tensor (what a head in eval mode returns). Any device
            and float type; the work is done in float32 or finer. Of a network with NMS inside, what
            `select_detections` leaves.
        conf_thres: objectness * class probability must exceed it, in [0, 1].
        iou_thres: a box is dropped when its IoU with a better one exceeds it, in [0, 1].
        classes: keep these classes only.
        agnostic: boxes of different classes suppress each other too.
        multi_label: one candidate for each class above the threshold instead of the best class only.
        labels: per image (n, 5) class, x, y, w, h in pixels of known objects, which enter with score 1.
        max_det: detections kept per image.
        nm: trailing mask coefficients, carried along.

    Returns:
        B tensors (n, 6 + nm): x1, y1, x2, y2, score, class, coefficients; equal scores keep the order of `prediction`.

    Raises:
        InputError: a threshold outside [0, 1] or `max_det` below 1.
    """
    _check_settings(conf_thres, iou_thres, max_det)
    if isinstance(prediction, Suppressed):
        return select_detections(prediction, conf_thres, classes, max_det)
    decoded = prediction if isinstance(prediction, Tensor) else prediction[0]
    find = _find_in_numpy if decoded.device.type == "cpu" else _find_candidates
    images = find(decoded.detach(), conf_thres, classes, multi_label, nm)
    if len(labels):
        images = [_with_labels(found, known) for found, known in zip(images, labels, strict=True)]
    return [_suppress(found, iou_thres, agnostic, max_det) for found in images]


def select_detections(
    suppressed: Suppressed, conf_thres: float = 0.25, classes: Sequence[int] | None = None, max_det: int = 300
) -> list[Tensor]:
    """Detections (n, 6) of every image whose network did NMS itself: what the caller's thresholds leave."""
    found = []
    for rows in suppressed.rows.float():
        wanted = rows[:, 4] > conf_thres
        if classes is not None:
            wanted &= torch.isin(rows[:, 5], rows.new_tensor([float(c) for c in classes]))
        found.append(rows[wanted][:max_det])
    return found


def _check_settings(conf_thres: float, iou_thres: float, max_det: int) -> None:
    for name, value in (("confidence threshold", conf_thres), ("IoU threshold", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} {value}: must lie between 0 and 1")
    if max_det < 1:
        raise InputError(f"max_det {max_det}: at least one detection must be allowed")


def _find_candidates(
    decoded: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool, nm: int
) -> Sequence[Tensor]:
    """Per image (K, 6 + nm) rows x1, y1, x2, y2, score, class, coefficients: all above the threshold, not ranked.

    A score never exceeds the objectness, so the other columns are read for rows of sufficient objectness only.
    """
    num_images, num_rows, width = decoded.shape
    num_classes = width - 5 - nm
    places = (decoded[..., 4].reshape(-1).float() > conf_thres).nonzero()[:, 0]
    rows = decoded.reshape(-1, width).index_select(0, places).float()
    scores = rows[:, 5 : 5 + num_classes] * rows[:, 4:5]  # (R, num_classes)
    if classes is not None:
        scores = _only_classes(scores, classes)
    if multi_label and num_classes > 1:
        above = (scores > conf_thres).flatten().nonzero()[:, 0]  # flat: several times faster than pairs of indices
        row, label = above // num_classes, above % num_classes
        score = scores.flatten()[above]
    else:
        score, label = scores.max(dim=1)
        row = (score > conf_thres).nonzero()[:, 0]
        score, label = score[row], label[row]
    chosen = rows.index_select(0, row) if nm else rows[:, :4].index_select(0, row)
    corners = xywh_to_xyxy(chosen[:, :4])
    found = torch.cat((corners, score[:, None], label[:, None].float(), chosen[:, width - nm :]), dim=1)
    counts = torch.bincount(places[row] // num_rows, minlength=num_images)
    return found.split(counts.tolist())


def _find_in_numpy(
    decoded: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool, nm: int
) -> Sequence[Tensor]:
    """As `_find_candidates`, for the CPU: twice as fast, and no waiting for threads where others use the cores."""
    num_classes = decoded.shape[2] - 5 - nm
    others = np.setdiff1d(np.arange(num_classes), [] if classes is None else list(classes))
    found = []
    for image in decoded.float().numpy():
        rows = image[np.flatnonzero(image[:, 4] > conf_thres)]
        scores = rows[:, 5 : 5 + num_classes] * rows[:, 4:5]  # (R, num_classes)
        if classes is not None:
            scores[:, others] = -1
        if multi_label and num_classes > 1:
            row, label = np.divmod(np.flatnonzero(scores > conf_thres), num_classes)
        else:
            label = scores.argmax(axis=1)
            row = np.flatnonzero(scores[np.arange(len(rows)), label] > conf_thres)
            label = label[row]
        columns = (xywh_to_xyxy(rows[row, :4]), scores[row, label, None], label[:, None], rows[row, 5 + num_classes :])
        found.append(torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32)))
    return found


def _only_classes(scores: Tensor, classes: Sequence[int]) -> Tensor:
    """Scores with those of all other classes at minus one, below every threshold; numbers out of range are ignored."""
    num_classes = scores.shape[1]
    wanted = torch.zeros(num_classes, dtype=torch.bool, device=scores.device)
    wanted[[int(c) for c in classes if 0 <= int(c) < num_classes]] = True
    return scores.masked_fill(~wanted, -1.0)


def _with_labels(found: Tensor, known: Tensor) -> Tensor:
    """The candidates and, at score 1 and with empty coefficients, the known objects (n, 5) class, xywh."""
    known = known.to(found)
    extra = found.new_zeros(len(known), found.shape[1])
    extra[:, :4], extra[:, 4], extra[:, 5] = xywh_to_xyxy(known[:, 1:5]), 1, known[:, 0]
    return torch.cat((found, extra))


def _suppress(found: Tensor, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """The first `max_det` survivors of greedy NMS among one image's candidates.

    The survivors so far head the next chunk: they do not suppress each other, so they come out first and again.
    """
    kept, seen = found[:0], 0
    for ranked in _best_first(found):
        start = 0
        while start < len(ranked) and len(kept) < max_det:
            end = start + _chunk_size(len(kept), seen, max_det)
            rows = torch.cat((kept, ranked[start:end]))
            kept = rows[_survivors(rows, iou_thres, agnostic)[:max_det]]
            seen += end - start
            start = end
        if len(kept) == max_det:
            break
    return kept


def _chunk_size(num_kept: int, num_seen: int, max_det: int) -> int:
    """Candidates to look at next: a little more than should give the missing survivors at the rate so far."""
    if not num_seen:
        return 3 * max_det
    return min(max(int(1.3 * (max_det - num_kept) * num_seen / num_kept), MIN_CHUNK), MAX_CHUNK)


def _best_first(found: Tensor) -> Iterator[Tensor]:
    """Candidates in order of score: the best of them (with all that tie with the last of these), then the others."""
    if len(found) > SORTED_FIRST:
        last = found[:, 4].topk(SORTED_FIRST, sorted=False).values.min()
        is_best = found[:, 4] >= last
        yield _ranked(found[is_best])
        found = found[~is_best]
    yield _ranked(found)


def _ranked(found: Tensor) -> Tensor:
    """Best score first, equal ones in their order."""
    return found[found[:, 4].argsort(descending=True, stable=True)]


def _survivors(ranked: Tensor, iou_thres: float, agnostic: bool) -> Tensor:
    """Indices, rising, of the rows that greedy NMS keeps of rows sorted by score.

    On the CPU the time goes into comparing pairs, most of them of different classes, so that many rows are dealt with
    in groups of classes.
    """
    boxes, scores, classes = ranked[:, :4].double(), ranked[:, 4].double(), ranked[:, 5]
    if agnostic or not len(ranked):
        return torchvision.ops.nms(boxes, scores, iou_thres)
    boxes = _separate(boxes, classes)
    if len(boxes) < WORTH_GROUPING or boxes.is_cuda:
        return torchvision.ops.nms(boxes, scores, iou_thres)
    groups = classes.long() % CLASS_GROUPS
    rows_of_groups = groups.argsort(stable=True).split(torch.bincount(groups).tolist())
    kept = [rows[torchvision.ops.nms(boxes[rows], scores[rows], iou_thres)] for rows in rows_of_groups if len(rows)]
    return torch.cat(kept).sort().values


def _separate(boxes: Tensor, classes: Tensor) -> Tensor:
    """Boxes (float64), each class moved so far that boxes of different classes cannot touch.

    In float32 the move would cost up to 1/16 pixel at class 79; float64 keeps the boxes as they are.
    """
    reach = boxes.abs().nan_to_num(posinf=0.0).max() * 2 + 1
    return boxes + (classes.double() * reach)[:, None]
