"""Non-maximum suppression: from decoded head output to the detections of each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from utils.boxes import xywh_to_xyxy
from utils.errors import InputError

SORTED_FIRST = 8192  # candidates ranked at first; the others are only where these leave too few survivors
CHUNK = 2048  # candidates worked off at a time
CLASS_GROUPS = 8
WORTH_GROUPING = 256  # rows


class Candidates(NamedTuple):
    """Boxes of one picture or of several that passed the score threshold, row i of each field belonging together."""

    boxes_xyxy: Tensor  # (K, 4) float32
    scores: Tensor  # (K,)
    classes: Tensor  # (K,) int64
    extras: Tensor  # (K, nm) mask coefficients

    def take(self, rows: Tensor | slice) -> Candidates:
        """The rows of a mask, index list or slice, in that order."""
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
    picture = torch.div(places[row], num_rows, rounding_mode="floor")
    counts = torch.bincount(picture, minlength=num_pictures).tolist()
    boxes, extras = xywh_to_xyxy(rows[:, :4]), rows[:, 5 + num_classes :]
    return Candidates(boxes.index_select(0, row), score, label, extras.index_select(0, row)), counts


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
    return _concat(found, extra)


def _concat(first: Candidates, second: Candidates) -> Candidates:
    return Candidates(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


def _as_rows(found: Candidates) -> Tensor:
    """(n, 6 + nm) x1, y1, x2, y2, score, class, coefficients."""
    return torch.cat((found.boxes_xyxy, found.scores[:, None], found.classes[:, None].float(), found.extras), dim=1)


def _suppress(found: Candidates, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """The first `max_det` survivors of greedy NMS among one picture's candidates, (n, 6 + nm).

    The survivors so far head the next chunk: they do not suppress each other, so they come out first and again.
    """
    kept = found.take(slice(0))
    for ranked in _best_first(found):
        for start in range(0, len(ranked.scores), CHUNK):
            rows = _concat(kept, ranked.take(slice(start, start + CHUNK)))
            kept = rows.take(_survivors(rows, iou_thres, agnostic)[:max_det])
            if len(kept.scores) == max_det:
                return _as_rows(kept)
    return _as_rows(kept)


def _best_first(found: Candidates) -> Iterator[Candidates]:
    """Candidates in order of score: the best of them (with all that tie with the last of these), then the others."""
    others = None
    if len(found.scores) > SORTED_FIRST:
        last = found.scores.topk(SORTED_FIRST, sorted=False).values.min()
        is_best = found.scores >= last
        found, others = found.take(is_best), found.take(~is_best)
    yield found.take(found.scores.argsort(descending=True, stable=True))
    if others is not None:
        yield others.take(others.scores.argsort(descending=True, stable=True))


def _survivors(ranked: Candidates, iou_thres: float, agnostic: bool) -> Tensor:
    """Indices, rising, of the rows that greedy NMS keeps of rows sorted by score.

    On the CPU the time goes into comparing pairs, most of them of different classes, so that many rows are dealt with
    in groups of classes.
    """
    boxes, scores = _separate(ranked, agnostic), ranked.scores.double()
    if agnostic or len(boxes) < WORTH_GROUPING or boxes.is_cuda:
        return torchvision.ops.nms(boxes, scores, iou_thres)
    groups = ranked.classes % CLASS_GROUPS
    rows_of_groups = groups.argsort(stable=True).split(torch.bincount(groups).tolist())
    kept = [rows[torchvision.ops.nms(boxes[rows], scores[rows], iou_thres)] for rows in rows_of_groups if len(rows)]
    return torch.cat(kept).sort().values


def _separate(found: Candidates, agnostic: bool) -> Tensor:
    """Boxes in float64, each class moved so far that boxes of different classes cannot touch.

    In float32 the move would cost up to 1/16 pixel at class 79; float64 keeps the boxes as they are.
    """
    boxes = found.boxes_xyxy.double()
    if agnostic or not len(boxes):
        return boxes
    reach = boxes.abs().nan_to_num(posinf=0.0).max() * 2 + 1
    return boxes + (found.classes * reach)[:, None]
