"""Patient registration from points, and optionally a surface, touched on the patient and known in the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from math import comb

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.artifacts import PATIENT, PatientResult, rows
from navnode.types import Array, Matrix, Mesh

from .fitting import not_outlying, rms
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged

__all__ = ["patient", "touched_in_order"]

_AGAIN = "touch the points again, the worst first"
GATES = (
    Gate("n_used", 4, TOO_FEW, "the number of points in both files", "touch more points", at_least=True),
    Gate(
        "spread_mm",
        10,
        "collinear",
        "the spread of the points across their main direction",
        "choose points that surround the target",
        "mm",
        at_least=True,
    ),
    Gate("fre_rms_mm", 2.0, "residual", "the rms distance of the points", _AGAIN, "mm"),
    Gate("tre_mm", 2.5, "tre", "the expected error at the worst target", "touch more points, around the target", "mm"),
    Gate(
        "surface_n_used",
        50,
        "surface_residual",
        "the number of usable surface points",
        "touch more of the surface",
        at_least=True,
    ),
    Gate(
        "surface_rms_mm",
        1.0,
        "surface_residual",
        "the rms distance from the surface",
        "touch bone, not skin, and keep contact",
        "mm",
    ),
    Gate(
        "surface_sigma_mm",
        1.0,
        "surface_sigma",
        "the largest standard error on the surface",
        "touch other sides of the bone, too",
        "mm",
    ),
)
_CONTRADICTS = 2.7
"""Times the stated error that residuals show; three points or more show it by chance once in ten thousand times."""
_FEWEST_TO_DROP = 6
_DROP_CHANCE = 1e-3
"""A point is dropped if an error like its own has at most this probability."""
_MOST_TO_PERMUTE = 7
_MOST_CHOICES = 20_000
_BETTER = 0.5
"""Largest rms of another pairing, relative to that of the given one, to be reported."""
_TARGET_MM = 50.0
_SAMPLES, _NEIGHBOURS = 60_000, 8
_MOST_ROUNDS = 100
_SINGULAR = 1e-9
_FEWEST_ON_SURFACE = 6
_LEAST_SURFACE_SIGMA_MM = 0.05
"""Lower bound however well the points fit, as no tracker is better."""


def patient(
    volume_points_mm: Mapping[str, Array],
    patient_points_mm: Mapping[str, Array],
    *,
    surface_points_mm: Array | None = None,
    mesh: Mesh | None = None,
    targets_mm: Mapping[str, Array] | None = None,
    fle_mm: float | None = None,
    gates: Gates | None = None,
) -> Calibration[PatientResult]:
    """Find volume_from_patient from points paired by label (Umeyama, IEEE PAMI 13, 1991), refined on a surface.

    The expected error at targets follows Fitzpatrick, West and Maurer (IEEE Trans. Med. Imaging 17, 1998); the error at
    the points themselves says little about it.

    Args:
        volume_points_mm: label -> (3,) RAS.
        patient_points_mm: label -> (3,) in the frame of the patient's marker.
        surface_points_mm: (M, 3), patient frame, on the bone that ``mesh`` shows in the volume.
        targets_mm: label -> (3,) RAS.
        fle_mm: localisation error of a point, rms in 3-D; default, and where they contradict it: estimated from the
            residuals.

    Raises:
        ConfigError: only one of surface and mesh was passed, or ``fle_mm`` is not positive.
    """
    if (surface_points_mm is None) != (mesh is None):
        raise ConfigError("--surface and --mesh must be used together")
    if fle_mm is not None and not fle_mm > 0:
        raise ConfigError("--fle-mm must be positive")
    labels = [label for label in volume_points_mm if label in patient_points_mm]
    volume = np.array([volume_points_mm[label] for label in labels], np.float64).reshape(-1, 3)
    measured = np.array([patient_points_mm[label] for label in labels], np.float64).reshape(-1, 3)
    finite = np.isfinite(volume).all(axis=1) & np.isfinite(measured).all(axis=1)
    keep = np.flatnonzero(finite)
    has_surface = mesh is not None and surface_points_mm is not None
    which = _gates(has_surface)
    quality: dict[str, object] = dict.fromkeys(("fre_rms_mm", "fre_mm", "fle_mm", "covariance", "spread_mm", "tre_mm"))
    figures: dict[str, float | None] = {"tre_mm": None}
    if has_surface:
        quality |= dict.fromkeys(("surface_rms_mm", "surface_n_used", "surface_sigma_mm"))
    result: PatientResult | None = None
    reason = ""
    if len(keep) >= 3:
        if _spread_mm(volume[keep]) >= (gates or {}).get("spread_mm", 10.0):
            most_mm = (gates or {}).get("fre_rms_mm", 2.0)
            reason = _mistaken(volume[keep], measured[keep], [labels[n] for n in keep], most_mm)
        if not reason:
            keep = _without_one(volume, measured, keep)
        volume_from_patient = fitted(measured[keep], volume[keep])
        spread = _spread_mm(volume[keep])
        if mesh is not None and surface_points_mm is not None:
            surface = _Surface(mesh)
            volume_from_patient, surface_figures = _on_surface(
                surface,
                np.asarray(surface_points_mm, np.float64),
                volume_from_patient,
                measured[keep],
                volume[keep],
                fle_mm,
            )
            quality |= asdict(surface_figures)
        off = np.linalg.norm(g.transform(volume_from_patient, measured) - volume, axis=1)
        fre = rms(off[keep])
        shown = fre / np.sqrt(1 - 2 / len(keep))
        # Residuals that the stated error does not explain count more than what is stated.
        fle = shown if fle_mm is None or shown > _CONTRADICTS * fle_mm else fle_mm
        tre = _targets(volume[keep], targets_mm, fle)
        figures["tre_mm"] = max(tre.values())
        quality |= {
            "fre_rms_mm": fre,
            "fre_mm": {labels[n]: float(off[n]) for n in np.flatnonzero(finite)},
            "fle_mm": float(fle),
            "covariance": _covariance(volume[keep], float(fle)),
            "spread_mm": spread,
            "tre_mm": tre,
        }
        result = PatientResult(rows(volume_from_patient))
    rejected = [label for n, label in enumerate(labels) if n not in keep]
    document = {
        "n_input": len(labels),
        "n_used": len(keep),
        "rejected": [list(volume_points_mm).index(label) for label in rejected],
        "rejected_labels": rejected,
        "unpaired": sorted(set(volume_points_mm) ^ set(patient_points_mm)),
        **quality,
    }
    few = len(keep) < (gates or {}).get("n_used", which[0].limit)
    return judged(
        PATIENT,
        which,
        gates,
        figures,
        result=result,
        quality=document,
        reason="" if few else reason,
        pictures=[("fre", {"mm": quality["fre_mm"], "tre_mm": quality["tre_mm"]})],
    )


def touched_in_order(planned_mm: Mapping[str, Array], places_mm: Sequence[Matrix]) -> dict[str, Matrix]:
    """Match the places (3,) where the tip rested to the planned points, touched in order. If there are more places than
    points, the best-fitting ones are used; the others were pauses."""
    count, labels = len(planned_mm), list(planned_mm)
    if len(places_mm) <= count or comb(len(places_mm), count) > _MOST_CHOICES or count < 3:
        return dict(zip(labels, places_mm, strict=False))
    planned, places = np.array([planned_mm[label] for label in labels], np.float64), np.array(places_mm)
    best = min(combinations(range(len(places)), count), key=lambda some: _fre(places[list(some)], planned))
    return dict(zip(labels, places[list(best)], strict=True))


def _gates(has_surface: bool) -> tuple[Gate, ...]:
    if not has_surface:
        return tuple(gate for gate in GATES if not gate.key.startswith("surface"))
    first = GATES[0]
    return (Gate(first.key, 3, first.code, first.what, first.advice, at_least=True), *GATES[1:])


def fitted(a: Matrix, b: Matrix, *, reflected: bool = False) -> Matrix:
    """b_from_a from paired points (N, 3); ``reflected``: with the determinant that fits better."""
    u, _, vt = np.linalg.svd((b - b.mean(axis=0)).T @ (a - a.mean(axis=0)))
    sign = 1.0 if reflected else float(np.linalg.det(u @ vt))
    rotation = u @ np.diag([1.0, 1.0, sign]) @ vt
    return g.rigid(rotation, b.mean(axis=0) - rotation @ a.mean(axis=0))


def _fre(a: Matrix, b: Matrix, *, reflected: bool = False) -> float:
    return rms(np.linalg.norm(g.transform(fitted(a, b, reflected=reflected), a) - b, axis=1))


def _spread_mm(points: Matrix) -> float:
    return float(np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(points)))


def _without_one(volume: Matrix, measured: Matrix, keep: Array) -> Array:
    """Drop one point if the others fit significantly better without it."""
    count = len(keep)
    if count < _FEWEST_TO_DROP:
        return keep
    from scipy.special import fdtri  # here and below: the page, which shows the panel, does not need them

    whole = _fre(measured[keep], volume[keep]) ** 2 * count
    left = [np.delete(keep, n) for n in range(count)]
    without = [_fre(measured[rest], volume[rest]) ** 2 * (count - 1) for rest in left]
    best = int(np.argmin(without))
    freedom = 3 * (count - 1) - 6
    ratio = (whole - without[best]) / 3 / max(without[best] / freedom, 1e-12)
    unlikely = float(fdtri(3, freedom, 1 - _DROP_CHANCE / count))
    return left[best] if ratio > unlikely and whole > 1e-12 else keep


def _mistaken(volume: Matrix, measured: Matrix, labels: list[str], most_mm: float) -> str:
    """Reason for failure if the points fit a mirror image or another pairing, or ''."""
    fre_mm = _fre(measured, volume)
    if fre_mm <= most_mm:
        return ""
    reflected = _fre(measured, volume, reflected=True)
    if reflected <= most_mm and reflected < _BETTER * fre_mm:
        return (
            f"mirrored: the points fit a mirror image ({reflected:.2g} mm) but no rotation ({fre_mm:.2g} mm, at most "
            f"{most_mm:.2g}); one axis of one file has the wrong sign, or left and right were swapped"
        )
    best = min(_pairings(len(labels)), key=lambda order: _fre(measured[list(order)], volume))
    other = _fre(measured[list(best)], volume)
    if other <= most_mm and other < _BETTER * fre_mm:
        moved = [labels[n] for n, place in enumerate(best) if n != place]
        return (
            f"correspondence: the points fit ({other:.2g} mm instead of {fre_mm:.2g}, at most {most_mm:.2g}) if "
            f"{', '.join(moved)} are exchanged; check their labels, and touch them again"
        )
    return ""


def _pairings(count: int) -> list[tuple[int, ...]]:
    """Other orders of the points: all if they are few, otherwise those with two or three exchanged."""
    own = tuple(range(count))
    if count <= _MOST_TO_PERMUTE:
        return [order for order in permutations(own) if order != own]
    orders = []
    for size in (2, 3):
        for some in combinations(own, size):
            for cycle in permutations(some):
                if all(a != b for a, b in zip(some, cycle, strict=True)):
                    order = list(own)
                    for a, b in zip(some, cycle, strict=True):
                        order[a] = b
                    orders.append(tuple(order))
    return orders


def _covariance(points: Matrix, fle_mm: float) -> Matrix:
    """6x6 covariance of a small rotation (rad) about the points' centroid and of the translation (mm), volume axes."""
    rows = np.concatenate([np.concatenate([-g.skew(p), np.eye(3)], axis=1) for p in points - points.mean(axis=0)])
    return np.asarray(fle_mm**2 / 3 * np.linalg.pinv(rows.T @ rows))


def _targets(points: Matrix, targets: Mapping[str, Array] | None, fle: float) -> dict[str, float]:
    """Expected rms error at the targets; without targets, at 50 mm from the points' centroid along each axis."""
    if targets:
        return {label: expected_tre_mm(points, np.asarray(at, np.float64), fle) for label, at in targets.items()}
    middle = points.mean(axis=0)
    tre = {
        f"{name}+50": expected_tre_mm(points, middle + _TARGET_MM * axis, fle)
        for name, axis in zip("xyz", np.eye(3), strict=True)
    }
    return tre | {"worst": max(tre.values())}


def expected_tre_mm(points: Matrix, target: Matrix, fle_mm: float) -> float:
    """Expected rms target registration error of fiducials (N, 3) (Fitzpatrick, West and Maurer 1998, equation 46)."""
    middle = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - middle, full_matrices=True)
    share = 0.0
    for axis in axes:
        across = np.linalg.norm(np.cross(points - middle, axis), axis=1)
        away = float(np.linalg.norm(np.cross(target - middle, axis)))
        share += away**2 / max(float(np.mean(across**2)), 1e-12)
    return float(fle_mm * np.sqrt((1 + share / 3) / len(points)))


class _Surface:
    """Finds the nearest points on a mesh."""

    def __init__(self, mesh: Mesh) -> None:
        from scipy.spatial import cKDTree

        self._triangles = np.asarray(mesh.vertices_mm, np.float64)[mesh.triangles]
        edges = self._triangles[:, [1, 2]] - self._triangles[:, :1]
        normals = np.cross(edges[:, 0], edges[:, 1])
        area = np.linalg.norm(normals, axis=1)
        # Smooth normals, as a ball's facets would wrongly reveal its rotation.
        smooth = np.zeros((len(mesh.vertices_mm), 3))
        for corner in range(3):
            np.add.at(smooth, mesh.triangles[:, corner], normals)
        self._normals = smooth[mesh.triangles]
        # Samples as dense as the area allows, so that the nearest triangle has one among the nearest few.
        count = np.maximum(np.ceil(area / max(float(area.sum()), 1e-9) * _SAMPLES), 1).astype(int)
        self._triangle_of = np.repeat(np.arange(len(area)), count)
        s, t = np.random.default_rng(0).random((2, len(self._triangle_of)))
        s, t = np.where(s + t > 1, 1 - s, s), np.where(s + t > 1, 1 - t, t)
        corner, edge = self._triangles[self._triangle_of, 0], edges[self._triangle_of]
        self.samples = corner + s[:, None] * edge[:, 0] + t[:, None] * edge[:, 1]
        self._tree = cKDTree(self.samples)

    def nearest(self, points: Matrix) -> tuple[Matrix, Matrix]:
        """The nearest points on the mesh (N, 3), and the smooth normals there."""
        from trimesh.triangles import closest_point, points_to_barycentric

        _, nearest = self._tree.query(points, k=_NEIGHBOURS)
        candidates = self._triangle_of[nearest]
        flat = candidates.ravel()
        places = closest_point(self._triangles[flat], np.repeat(points, _NEIGHBOURS, axis=0))
        places = places.reshape(len(points), _NEIGHBOURS, 3)
        best = np.linalg.norm(places - points[:, None], axis=2).argmin(axis=1)
        rows = np.arange(len(points))
        triangles, at = candidates[rows, best], places[rows, best]
        weights = points_to_barycentric(self._triangles[triangles], at)
        normals = np.einsum("nc,nci->ni", np.nan_to_num(weights, nan=1 / 3), self._normals[triangles])
        return at, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class _SurfaceFigures:
    """How well the touched points fit the surface; None if there are too few."""

    surface_rms_mm: float | None
    surface_n_used: int
    surface_sigma_mm: float | None


def _on_surface(
    surface: _Surface, touched: Matrix, start: Matrix, a: Matrix, b: Matrix, fle_mm: float | None
) -> tuple[Matrix, _SurfaceFigures]:
    """Fit points and surface together by iterated point-to-plane (Chen and Medioni, 1992), weighted by their errors."""
    volume_from_patient = start
    touched = touched[np.isfinite(touched).all(axis=1)]
    used = np.ones(len(touched), bool)
    if len(touched) < _FEWEST_ON_SURFACE:
        return start, _SurfaceFigures(None, len(touched), None)
    fle = fle_mm if fle_mm is not None else max(_fre(a, b) / np.sqrt(1 - 2 / len(a)), 0.1)
    sigma = fle / np.sqrt(3)
    distance = np.zeros(len(touched))
    normals = np.zeros_like(touched)
    for _ in range(_MOST_ROUNDS):
        here = g.transform(volume_from_patient, touched)
        places, normals = surface.nearest(here)
        distance = np.einsum("ni,ni->n", here - places, normals)
        length = np.linalg.norm(here - places, axis=1)
        used = not_outlying(length, 1, None)
        middle = here[used].mean(axis=0) if used.any() else here.mean(axis=0)
        rows, wanted = _plane_rows(here[used], normals[used], middle), -distance[used]
        spread = max(rms(wanted), _LEAST_SURFACE_SIGMA_MM)
        at = g.transform(volume_from_patient, a)
        points = np.concatenate([np.concatenate([-g.skew(p - middle), np.eye(3)], axis=1) for p in at])
        design = np.concatenate([rows / spread, points / sigma])
        step, *_ = np.linalg.lstsq(design, np.concatenate([wanted / spread, (b - at).ravel() / sigma]), None)
        volume_from_patient = g.exp(step, middle) @ volume_from_patient
        if float(np.abs(step[:3]).max()) < 1e-7 and float(np.abs(step[3:]).max()) < 1e-5:
            break
    here = g.transform(volume_from_patient, touched)
    places, normals = surface.nearest(here)
    length = np.linalg.norm(here - places, axis=1)
    sigma = max(rms(length[used]), _LEAST_SURFACE_SIGMA_MM)
    return volume_from_patient, _SurfaceFigures(
        rms(length[used]), int(used.sum()), _surface_sigma_mm(here[used], normals[used], sigma, surface.samples)
    )


def _plane_rows(points: Matrix, normals: Matrix, middle: Matrix) -> Matrix:
    """Derivatives of the distances by a small rigid motion about ``middle``, (N, 6)."""
    return np.concatenate([np.cross(points - middle, normals), normals], axis=1)


def _surface_sigma_mm(points: Matrix, normals: Matrix, sigma_mm: float, everywhere: Matrix) -> float:
    """Largest standard error of any place on the surface, from what the touched points leave undetermined."""
    if len(points) < 6:
        return float("inf")
    middle = points.mean(axis=0)
    scale = max(rms(np.linalg.norm(points - middle, axis=1)), 1e-6)
    rows = _plane_rows(points, normals, middle) * np.repeat([1 / scale, 1.0], 3)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    if values[0] < _SINGULAR * values[-1]:
        return float("inf")
    spread = (vectors / values) @ vectors.T * sigma_mm**2
    worst = 0.0
    for p in everywhere[:: max(len(everywhere) // 500, 1)]:
        moves = np.concatenate([-g.skew(p - middle) / scale, np.eye(3)], axis=1)
        worst = max(worst, float(np.linalg.eigvalsh(moves @ spread @ moves.T)[-1]))
    return float(np.sqrt(worst))
