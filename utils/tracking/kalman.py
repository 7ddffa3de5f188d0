"""Kalman filters of many boxes at once, with constant velocity."""

from __future__ import annotations

import numpy as np

POSITION_STD, VELOCITY_STD = 1 / 20, 1 / 160  # relative to the side of the box, a frame (arXiv:1703.07402)
INITIAL_POSITION, INITIAL_VELOCITY = 2.0, 10.0  # factors of these for a new track
POSITION, VELOCITY, VAR_POSITION, COVARIANCE, VAR_VELOCITY = range(5)


class BoxFilters:
    """Filters of n boxes, each over center x, center y, width and height and their velocities.

    Noise is independent for the four coordinates, so each of them is a filter of its own with two states: all
    n * 4 filters are a few array operations, without matrices.

    Attributes:
        state: (5, n, 4) position (pixels), velocity (pixels a frame), variance of the position, covariance of both,
            variance of the velocity.
    """

    def __init__(self, state: np.ndarray) -> None:
        self.state = state

    @classmethod
    def start(cls, boxes_xywh: np.ndarray) -> BoxFilters:
        """Filters at rest at boxes (n, 4)."""
        state = np.zeros((5, len(boxes_xywh), 4))
        sides = _get_sides(boxes_xywh)
        state[POSITION] = boxes_xywh
        state[VAR_POSITION] = (INITIAL_POSITION * POSITION_STD * sides) ** 2
        state[VAR_VELOCITY] = (INITIAL_VELOCITY * VELOCITY_STD * sides) ** 2
        return cls(state)

    def __len__(self) -> int:
        return self.state.shape[1]

    @property
    def position(self) -> np.ndarray:
        """(n, 4) center x, center y, width, height."""
        position: np.ndarray = self.state[POSITION]
        return position

    def select(self, rows: np.ndarray) -> BoxFilters:
        """Copies of some filters, by indices or a bool mask."""
        return BoxFilters(self.state[:, rows])

    def extend(self, others: BoxFilters) -> None:
        """Append filters."""
        self.state = np.concatenate([self.state, others.state], axis=1)

    def assign(self, rows: np.ndarray, others: BoxFilters) -> None:
        """Replace the filters at `rows`."""
        self.state[:, rows] = others.state

    def predict(self, frames: int = 1) -> None:
        """Advance all filters by a number of frames."""
        position, velocity, var_position, covariance, var_velocity = self.state
        sides = _get_sides(position)
        position += frames * velocity
        np.maximum(position[:, 2:], 1.0, out=position[:, 2:])  # width and height stay positive
        var_position += frames * (2 * covariance + frames * var_velocity + (POSITION_STD * sides) ** 2)
        covariance += frames * var_velocity
        var_velocity += frames * (VELOCITY_STD * sides) ** 2

    def update(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> None:
        """Correct the filters at `rows` by measured boxes (k, 4)."""
        position, velocity, var_position, covariance, var_velocity = state = self.state[:, rows]
        total = var_position + (POSITION_STD * _get_sides(position)) ** 2
        gain, velocity_gain = var_position / total, covariance / total
        innovation = boxes_xywh - position
        position += gain * innovation
        velocity += velocity_gain * innovation
        var_velocity -= velocity_gain * covariance
        var_position *= 1 - gain
        covariance *= 1 - gain
        self.state[:, rows] = state

    def rescale(self, scale_wh: tuple[float, float]) -> None:
        """Continue in frames of another size."""
        scale = np.array(scale_wh * 2)
        self.state[:VAR_POSITION] *= scale
        self.state[VAR_POSITION:] *= scale**2


def _get_sides(boxes_xywh: np.ndarray) -> np.ndarray:
    """(n, 4) width, height, width, height: the scale of each coordinate's noise."""
    return np.maximum(boxes_xywh[:, [2, 3, 2, 3]], 1.0)
