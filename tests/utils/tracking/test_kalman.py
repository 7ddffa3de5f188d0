from __future__ import annotations

import numpy as np

from utils.tracking.kalman import POSITION_STD, VELOCITY_STD, BoxFilters


class Textbook:
    """One filter with matrices of eight states, as in any textbook: x = F x, P = F P F' + Q; K = P H' S^-1."""

    def __init__(self, box: np.ndarray) -> None:
        sides = box[[2, 3, 2, 3]]
        self.x = np.concatenate([box, np.zeros(4)])
        self.P = np.diag(np.concatenate([2 * POSITION_STD * sides, 10 * VELOCITY_STD * sides]) ** 2)
        self.H = np.eye(4, 8)

    def predict(self, frames: int) -> None:
        sides = self.x[[2, 3, 2, 3]]
        step = np.eye(8) + frames * np.eye(8, k=4)
        noise = frames * np.diag(np.concatenate([POSITION_STD * sides, VELOCITY_STD * sides]) ** 2)
        self.x, self.P = step @ self.x, step @ self.P @ step.T + noise

    def update(self, box: np.ndarray) -> None:
        noise = np.diag((POSITION_STD * self.x[[2, 3, 2, 3]]) ** 2)
        gain = self.P @ self.H.T @ np.linalg.inv(self.H @ self.P @ self.H.T + noise)
        self.x = self.x + gain @ (box - self.H @ self.x)
        self.P = (np.eye(8) - gain @ self.H) @ self.P


def test_equals_the_matrix_form() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(20, 200, (6, 4))
    filters, references = BoxFilters.start(boxes), [Textbook(box) for box in boxes]
    for frame in range(40):
        frames = 1 + frame % 3
        filters.predict(frames)
        for reference in references:
            reference.predict(frames)
        seen = np.flatnonzero(rng.random(6) < 0.7)
        measured = boxes[seen] + rng.normal(0, 2, (len(seen), 4)) + frame
        filters.update(seen, measured)
        for k, box in zip(seen, measured, strict=True):
            references[k].update(box)
        expected = np.stack([reference.x for reference in references])
        assert np.allclose(filters.position, expected[:, :4], rtol=1e-9)
        assert np.allclose(filters.state[1], expected[:, 4:], rtol=1e-9, atol=1e-9)
        covariances = np.stack([reference.P for reference in references])
        assert np.allclose(filters.state[3], np.stack([np.diag(P[:4, 4:]) for P in covariances]), rtol=1e-8, atol=1e-12)


def test_rescale_is_a_change_of_units() -> None:
    boxes = np.array([[100.0, 80.0, 40.0, 20.0]])
    a, b = BoxFilters.start(boxes), BoxFilters.start(boxes * 2)
    for _ in range(3):
        for filters, factor in ((a, 1), (b, 2)):
            filters.predict()
            filters.update(np.array([0]), boxes * factor + 3 * factor)
    a.rescale((2.0, 2.0))
    assert np.allclose(a.state, b.state)


def test_sides_stay_positive() -> None:
    filters = BoxFilters.start(np.array([[50.0, 50.0, 10.0, 10.0]]))
    for size in (6.0, 3.0, 1.0):
        filters.predict()
        filters.update(np.array([0]), np.array([[50.0, 50.0, size, size]]))
    filters.predict(frames=500)
    assert (filters.position[:, 2:] >= 1).all() and np.isfinite(filters.state).all()
