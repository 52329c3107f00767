"""Normal equations of several bodies: the step that they make, how it goes on, and what they leave open of one."""

from __future__ import annotations

import numpy as np

from navnode.registration.appearance import POSE_SCALE
from navnode.types import Matrix

__all__ = ["Momentum", "marginal", "steps_of"]

_DAMPING = 1e-3
_KEPT = 0.8
"""Share of the last movement that goes on."""


def steps_of(hessian: Matrix, gradient: Matrix, longest_mm: float) -> Matrix:
    """Scaled Gauss-Newton steps (bodies, 6), damped where nothing determines them.

    Args:
        hessian: (6 bodies, 6 bodies), scaled.
        gradient: (6 bodies,)
        longest_mm: of every step.
    """
    damped = hessian + np.diag(_DAMPING * np.diag(hessian)) + _LEAST * _mean(hessian) * np.eye(len(hessian))
    return _at_most(np.asarray(np.linalg.solve(damped, gradient)).reshape(-1, 6), longest_mm)


class Momentum:
    """Steps that go on where they agree (Polyak, USSR Comput. Math. Math. Phys. 4, 1964).

    Far from where a bone belongs its shadow says which way, but hardly how far: Gauss-Newton steps are short there, and
    all alike.
    """

    def __init__(self, bodies: int) -> None:
        self._movement = np.zeros((bodies, 6))

    def carried(self, steps: Matrix, longest_mm: float) -> Matrix:
        """Scaled movements (bodies, 6) by the steps, and by those before that do not speak against them.

        Where a descent ends, take the step alone: with what it carries it may go as far beyond.

        Args:
            longest_mm: of every movement.
        """
        agree = (self._movement * steps).sum(axis=1, keepdims=True) > 0
        self._movement = _at_most(steps + _KEPT * np.where(agree, self._movement, 0.0), longest_mm)
        return self._movement


def _at_most(steps: Matrix, longest_mm: float) -> Matrix:
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.asarray(steps * np.minimum(1.0, longest_mm / np.maximum(lengths, 1e-12)))


def marginal(hessian: Matrix, row: int) -> Matrix:
    """6x6 covariance (rad, mm) of one body for noise 1, wherever the others are.

    Args:
        hessian: (6 bodies, 6 bodies), scaled.
    """
    at = slice(6 * row, 6 * row + 6)
    information = hessian + _LEAST * _mean(hessian) * np.eye(len(hessian))
    return np.asarray(np.linalg.inv(information)[at, at] / np.outer(POSE_SCALE, POSE_SCALE))


_LEAST = 1e-9
"""Share of the mean information that is there in any direction: the equations can be solved."""


def _mean(hessian: Matrix) -> float:
    return float(np.trace(hessian)) / len(hessian) + 1.0
