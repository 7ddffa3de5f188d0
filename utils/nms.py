"""Non-maximum suppression: from decoded head output to the detections of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from utils.boxes import box_iou_matrix, xywh_to_xyxy
from utils.errors import InputError

FIRST_CHUNK = 1024  # candidates looked at first; nearly always enough for `max_det` survivors
NEXT_CHUNK = 4096  # bounds memory: a chunk is compared with itself and with at most `max_det` survivors


class Candidates(NamedTuple):
    """Boxes of one picture or of several that passed the score threshold, row i of each field belonging together."""

    boxes_xyxy: Tensor  # (K, 4) float32
    scores: Tensor  # (K,)
    classes: Tensor  # (K,) int64
    extras: Tensor  # (K, nm) mask coefficients

    def take(self, rows: Tensor) -> Candidates:
        """The rows of a mask or index list, in that order."""
        return Candidates(*(values[rows] for values in self))


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Detections of every picture, best first: greedy NMS, exact, with no limit on time or on candidates.

    Greedy suppression keeps boxes in order of score, so its first `max_det` survivors depend on no candidate ranked
    after the last of them: candidates are worked off best first, in chunks, and the work ends with enough survivors.
    Memory grows linearly with the number of candidates.

    Args:
        prediction: (B, N, 5 + num_classes + nm) rows x, y, w, h in pixels, objectness, class probabilities, `nm` mask
            coefficients; or a sequence that starts with this tensor (what a head in eval mode returns). Any device
            and float type; the work is done in float32 or finer.
        conf_thres: objectness * class probability must exceed it, in [0, 1].
        iou_thres: a box is dropped when its IoU with a better one exceeds it, in [0, 1].
        classes: keep these classes only.
        agnostic: boxes of different classes suppress each other too.
        multi_label: one candidate for each class above the threshold instead of the best class only.
        labels: per picture (n, 5) class, x, y, w, h in pixels of known objects, which enter with score 1.
        max_det: detections kept per picture.
        nm: trailing mask coefficients, carried along.

    Returns:
        B tensors (n, 6 + nm): x1, y1, x2, y2, score, class, coefficients; equal scores keep the order of `prediction`.

    Raises:
        InputError: a threshold outside [0, 1] or `max_det` below 1.
    """
    _check_settings(conf_thres, iou_thres, max_det)
    decoded = prediction if isinstance(prediction, Tensor) else prediction[0]
    candidates, counts = _find_candidates(decoded, conf_thres, classes, multi_label, nm)
    pictures = [Candidates(*fields) for fields in zip(*(field.split(counts) for field in candidates), strict=True)]
    if len(labels):
        pictures = [_with_labels(found, known) for found, known in zip(pictures, labels, strict=True)]
    return [_suppress(found, iou_thres, agnostic, max_det) for found in pictures]


def _check_settings(conf_thres: float, iou_thres: float, max_det: int) -> None:
    for name, value in (("confidence threshold", conf_thres), ("IoU threshold", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} {value}: must lie between 0 and 1")
    if max_det < 1:
        raise InputError(f"max_det {max_det}: at least one detection must be allowed")


def _find_candidates(
    decoded: Tensor, conf_thres: float, classes: Sequence[int] | None, multi_label: bool, nm: int
) -> tuple[Candidates, list[int]]:
    """Candidates of all pictures one after another, and how many each picture has.

    A score never exceeds the objectness, so the other columns are read for rows of sufficient objectness only.
    """
    num_pictures, num_rows, width = decoded.shape
    num_classes = width - 5 - nm
    places = (decoded[..., 4].reshape(-1) > conf_thres).nonzero()[:, 0]
    rows = decoded.reshape(-1, width)[places].float()
    scores = rows[:, 5 : 5 + num_classes] * rows[:, 4:5]  # (R, num_classes)
    if classes is not None:
        scores = _only_classes(scores, classes)
    if multi_label and num_classes > 1:
        row, label = (scores > conf_thres).nonzero(as_tuple=True)
        score = scores[row, label]
    else:
        score, label = scores.max(dim=1)
        row = (score > conf_thres).nonzero()[:, 0]
        score, label = score[row], label[row]
    picture = torch.div(places[row], num_rows, rounding_mode="floor")
    counts = torch.bincount(picture, minlength=num_pictures).tolist()
    found = rows[row]
    return Candidates(xywh_to_xyxy(found[:, :4]), score, label, found[:, 5 + num_classes :]), counts


def _only_classes(scores: Tensor, classes: Sequence[int]) -> Tensor:
    """Scores with those of all other classes at minus one, below every threshold; numbers out of range are ignored."""
    num_classes = scores.shape[1]
    wanted = torch.zeros(num_classes, dtype=torch.bool, device=scores.device)
    wanted[[int(c) for c in classes if 0 <= int(c) < num_classes]] = True
    return scores.masked_fill(~wanted, -1.0)


def _with_labels(found: Candidates, known: Tensor) -> Candidates:
    """The candidates and, at score 1 and with empty coefficients, the known objects (n, 5) class, xywh."""
    known = known.to(found.boxes_xyxy.device)
    extra = Candidates(
        xywh_to_xyxy(known[:, 1:5].float()),
        found.scores.new_ones(len(known)),
        known[:, 0].long(),
        found.extras.new_zeros(len(known), found.extras.shape[1]),
    )
    return Candidates(*(torch.cat(pair) for pair in zip(found, extra, strict=True)))


def _suppress(found: Candidates, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """The first `max_det` survivors of greedy NMS among one picture's candidates, (n, 6 + nm)."""
    best, others = _split_best(found)
    kept = best.take(_survivors(best, iou_thres, agnostic)[:max_det])
    if others is not None and len(kept.scores) < max_det:
        others = others.take(others.scores.argsort(descending=True, stable=True))
        for start in range(0, len(others.scores), NEXT_CHUNK):
            chunk = Candidates(*(field[start : start + NEXT_CHUNK] for field in others))
            kept = _extend(kept, chunk, iou_thres, agnostic)
            if len(kept.scores) >= max_det:
                break
        kept = Candidates(*(field[:max_det] for field in kept))
    return torch.cat((kept.boxes_xyxy, kept.scores[:, None], kept.classes[:, None].float(), kept.extras), dim=1)


def _split_best(found: Candidates) -> tuple[Candidates, Candidates | None]:
    """The best FIRST_CHUNK candidates sorted by score (with all that tie with the last of them), and the others."""
    others = None
    if len(found.scores) > FIRST_CHUNK:
        last = found.scores.topk(FIRST_CHUNK, sorted=False).values.min()
        is_best = found.scores >= last
        found, others = found.take(is_best), found.take(~is_best)
    return found.take(found.scores.argsort(descending=True, stable=True)), others


def _extend(kept: Candidates, chunk: Candidates, iou_thres: float, agnostic: bool) -> Candidates:
    """`kept` and what survives of the next chunk: not suppressed by `kept`, then not by the chunk's own better rows."""
    boxes = _separate(Candidates(*(torch.cat(pair) for pair in zip(kept, chunk, strict=True))), agnostic)
    num_kept = len(kept.scores)
    overlaps = box_iou_matrix(boxes[num_kept:], boxes[:num_kept], eps=0.0)
    chunk = chunk.take((overlaps > iou_thres).sum(dim=1) == 0)
    chunk = chunk.take(_survivors(chunk, iou_thres, agnostic))
    return Candidates(*(torch.cat(pair) for pair in zip(kept, chunk, strict=True)))


def _survivors(ranked: Candidates, iou_thres: float, agnostic: bool) -> Tensor:
    """Indices, best first, of the rows that greedy NMS keeps of rows sorted by score."""
    return torchvision.ops.nms(_separate(ranked, agnostic), ranked.scores.double(), iou_thres)


def _separate(found: Candidates, agnostic: bool) -> Tensor:
    """Boxes in float64, each class moved so far that boxes of different classes cannot touch.

    In float32 the move would cost up to 1/16 pixel at class 79; float64 keeps the boxes as they are.
    """
    boxes = found.boxes_xyxy.double()
    if agnostic or not len(boxes):
        return boxes
    reach = boxes.abs().nan_to_num(posinf=0.0).max() * 2 + 1
    return boxes + (found.classes * reach)[:, None]
