from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.losses.semantic import SemanticLoss


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 4, 6, 8) and semantic masks with a fifth of the pixels ignored."""
    rng = torch.Generator().manual_seed(seed)
    semantic_masks = torch.randint(0, 4, (2, 6, 8), generator=rng, dtype=torch.uint8)
    semantic_masks[torch.rand(semantic_masks.shape, generator=rng) < 0.2] = 255
    return torch.randn(2, 4, 6, 8, generator=rng), semantic_masks


def pixel_losses(logits: torch.Tensor, semantic_masks: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and class of each labeled pixel, one at a time."""
    losses, classes = [], []
    for b, y, x in np.argwhere(semantic_masks.numpy() != 255):
        row = logits[b, :, y, x].double().numpy()
        true_class = int(semantic_masks[b, y, x])
        losses.append(math.log(np.exp(row).sum()) - row[true_class])
        classes.append(true_class)
    return np.array(losses), np.array(classes)


def test_cross_entropy_of_one_pixel_by_hand() -> None:
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1)
    result = SemanticLoss()(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert float(result.total) == pytest.approx(-math.log(0.75))
    assert result.items["sem"] == result.total


def test_mean_over_labeled_pixels_times_the_batch() -> None:
    logits, semantic_masks = example()
    expected = pixel_losses(logits, semantic_masks)[0].mean()
    result = SemanticLoss("ce")(logits, semantic_masks)
    assert float(result.items["sem"]) == pytest.approx(expected, rel=1e-5)
    assert float(result.total) == pytest.approx(2 * expected, rel=1e-5)


def test_class_weights_give_a_weighted_mean() -> None:
    logits, semantic_masks = example()
    weights = np.array([0.5, 1.0, 2.0, 0.0])
    losses, classes = pixel_losses(logits, semantic_masks)
    expected = (losses * weights[classes]).sum() / weights[classes].sum()
    result = SemanticLoss("ce", class_weights=weights.tolist())(logits, semantic_masks)
    assert float(result.items["sem"]) == pytest.approx(expected, rel=1e-5)


def test_focal_is_computed_per_pixel() -> None:
    logits, semantic_masks = example()
    losses, _ = pixel_losses(logits, semantic_masks)
    expected = ((1 - np.exp(-losses)) ** 1.5 * losses).mean()
    result = SemanticLoss("focal", gamma=1.5)(logits, semantic_masks)
    assert float(result.items["sem"]) == pytest.approx(expected, rel=1e-5)
    plain = SemanticLoss("focal", gamma=0.0)(logits, semantic_masks).items["sem"]
    assert float(plain) == pytest.approx(losses.mean(), rel=1e-5)


def test_focal_gradients_at_certain_pixels_are_finite() -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    for gamma in (0.5, 2.0):
        SemanticLoss("focal", gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.uint8)).total.backward()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("hard_score", "least"), [(0.3, 1 / 16), (0.01, 0.25), (0.01, 0.0)], ids=["threshold", "least", "none"]
)
def test_ohem_keeps_the_hard_pixels(hard_score: float, least: float) -> None:
    logits, semantic_masks = example()
    losses = np.sort(pixel_losses(logits, semantic_masks)[0])[::-1]
    above = int((losses > -math.log(hard_score)).sum())
    num_hard = max(above, int(len(losses) * least))
    expected = losses[:num_hard].mean() if num_hard else 0.0
    result = SemanticLoss("ohem", hard_score=hard_score, least_hard=least)(logits, semantic_masks)
    assert float(result.items["sem"]) == pytest.approx(expected, rel=1e-5)
    assert (above < int(len(losses) * least)) == (least == 0.25)  # both branches are covered


def test_auxiliary_outputs_are_weighted() -> None:
    logits, semantic_masks = example()
    aux16, aux32 = example(1)[0], example(2)[0]
    one = [float(SemanticLoss()(x, semantic_masks).items["sem"]) for x in (logits, aux16, aux32)]
    three = SemanticLoss()([logits, aux16, aux32], semantic_masks)
    assert float(three.items["sem"]) == pytest.approx(one[0] + 0.15 * one[1] + 0.05 * one[2], rel=1e-5)
    two = SemanticLoss(aux_weights=(0.1,))((logits, aux16), semantic_masks)
    assert float(two.items["sem"]) == pytest.approx(one[0] + 0.1 * one[1], rel=1e-5)
    with pytest.raises(ValueError, match="longer than argument 1"):
        SemanticLoss(aux_weights=(0.1,))([logits, aux16, aux32], semantic_masks)


@pytest.mark.parametrize("kind", ["ce", "ohem", "focal"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0]])
def test_all_pixels_ignored(kind: str, weights: list[float] | None) -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    result = SemanticLoss(kind, class_weights=weights)(logits, torch.full((2, 3, 3), 255, dtype=torch.uint8))
    result.total.backward()
    assert float(result.total.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("kind", ["ce", "ohem", "focal"])
def test_ignored_pixels_have_no_gradient(kind: str) -> None:
    logits, semantic_masks = example()
    logits.requires_grad_()
    SemanticLoss(kind, hard_score=0.99)(logits, semantic_masks).total.backward()
    ignored = (semantic_masks == 255)[:, None].expand_as(logits)
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].abs().sum() > 0


@pytest.mark.parametrize("kind", ["ce", "ohem", "focal"])
def test_half_precision_logits_are_computed_in_float32(kind: str) -> None:
    logits, semantic_masks = example()
    half = (logits * 20).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = SemanticLoss(kind)(half, semantic_masks)
    expected = SemanticLoss(kind)(half.float(), semantic_masks)
    assert result.total.dtype == torch.float32
    assert float(result.total) == float(expected.total)


def test_another_ignore_value_and_weights_move_with_the_module() -> None:
    logits, semantic_masks = example()
    loss = SemanticLoss(class_weights=[1.0, 1.0, 1.0, 1.0], ignore=4)
    as_four = torch.where(semantic_masks == 255, 4, semantic_masks)
    assert float(loss(logits, as_four).total) == pytest.approx(
        float(SemanticLoss()(logits, semantic_masks).total), rel=1e-6
    )
    assert loss.to(torch.float64).class_weights.dtype == torch.float64
    assert not loss.state_dict()
