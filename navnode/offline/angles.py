"""Axes of long bones and the angles that planners use, from landmarks alone: moved ones change them.

mLDFA, aLDFA, MPTA, JLCA and HKA are those of Paley (Principles of Deformity Correction, 2002), in the frontal plane of
the bone: across the posterior condyles, or the plateau's two sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from navnode.offline.landmarks import Landmarks
from navnode.offline.model_report import AngleReport, AxisReport
from navnode.types import Matrix

__all__ = ["Certainty", "angles", "axes", "side"]

_METHOD_DEG = {
    "neck-shaft": 2.0,
    "aLDFA": 0.8,
    "mLDFA": 0.8,
    "anatomical-mechanical": 0.5,
    "MPTA": 1.0,
    "aMPTA": 0.8,
    "JLCA": 1.2,
    "HKA": 0.5,
}
"""Standard deviation that landmarks of a perfect surface leave, degrees; a shaft's line adds its own."""
_SHAFT_DEG_MM = 120.0
"""The same of a shaft's line, times its length: bones are bent. From nine whole legs, cut to 110 to 250 mm."""
_SIGMAS = 1.96


@dataclass(frozen=True)
class Certainty:
    """How well a bone's landmarks are known."""

    error_mm: float | None
    """Expected distance of its surface; None: not known, and no interval is stated."""
    angle_open_deg: float = 0.0
    """What the pictures' geometry leaves open of every angle."""


def axes(landmarks: Mapping[str, Landmarks], kinds: Mapping[str, str]) -> list[AxisReport]:
    """Anatomical and mechanical axes of bones that show them, from their upper to their lower end."""
    found = []
    for bone, own in landmarks.items():
        ends = {
            "anatomical": (own.get("shaft upper"), own.get("shaft lower")),
            "mechanical": _mechanical(kinds, bone, own),
        }
        for name, (upper, lower) in ends.items():
            if upper is not None and lower is not None:
                found.append(AxisReport(bone=bone, name=name, upper_mm=_rounded(upper), lower_mm=_rounded(lower)))
    return found


def angles(
    landmarks: Mapping[str, Landmarks], kinds: Mapping[str, str], certainties: Mapping[str, Certainty]
) -> list[AngleReport]:
    """Angles of every femur and tibia, and of the leg if there is one of each; with the reason where one is not shown.

    Args:
        kinds, certainties: of every bone by its name.
    """
    found = []
    for bone, kind in kinds.items():
        own, known = landmarks.get(bone, {}), certainties[bone]
        if kind == "femur":
            found += _femur(bone, own, known)
        elif kind == "tibia":
            found += _tibia(bone, own, known)
    pair = [[bone for bone, kind in kinds.items() if kind == each] for each in ("femur", "tibia")]
    if len(pair[0]) == 1 and len(pair[1]) == 1:
        found += _leg(landmarks, (pair[0][0], pair[1][0]), certainties)
    return found


def side(femur: Landmarks) -> str:
    """'left' or 'right', by a femur's lateral side and its back; '' if it does not show both."""
    names = ("medial condyle distal", "lateral condyle distal", "medial condyle posterior", "lateral condyle posterior")
    if any(name not in femur for name in names) or "shaft lower" not in femur or "shaft upper" not in femur:
        return ""
    medial, lateral, medial_behind, lateral_behind = (femur[name] for name in names)
    front = (medial + lateral - medial_behind - lateral_behind) / 2
    up = femur["shaft upper"] - femur["shaft lower"]
    return "right" if np.linalg.det(np.stack([lateral - medial, front, up])) > 0 else "left"


def _mechanical(kinds: Mapping[str, str], bone: str, own: Landmarks) -> tuple[Matrix | None, Matrix | None]:
    if kinds[bone] == "femur":
        return own.get("head centre"), _middle(_pair(own, "condyle", " distal"))
    if kinds[bone] == "tibia":
        return _middle(_pair(own, "plateau", "")), own.get("ankle centre")
    return None, None


def _pair(own: Landmarks, part: str, place: str) -> tuple[Matrix, Matrix] | None:
    """Medial and lateral one, else the two that are numbered."""
    for names in ((f"medial {part}", f"lateral {part}"), (f"{part} 1", f"{part} 2")):
        one, other = (own.get(f"{name}{place}") for name in names)
        if one is not None and other is not None:
            return one, other
    return None


def _middle(pair: tuple[Matrix, Matrix] | None) -> Matrix | None:
    return None if pair is None else np.asarray((pair[0] + pair[1]) / 2)


_Line = tuple[Matrix, Matrix]


def _line(one: Matrix | None, other: Matrix | None) -> _Line | None:
    return None if one is None or other is None else (one, other)


def _femur(bone: str, own: Landmarks, known: Certainty) -> list[AngleReport]:
    shaft = _line(own.get("shaft lower"), own.get("shaft upper"))
    joint = _line(own.get("medial condyle distal"), own.get("lateral condyle distal"))
    behind = _line(own.get("medial condyle posterior"), own.get("lateral condyle posterior"))
    knee, head = _middle(_pair(own, "condyle", " distal")), own.get("head centre")
    mechanical = _line(knee, head)
    hip = "" if head is not None else "the femoral head is not shown"
    neck = hip or ("" if "neck centre" in own else "the neck's thinnest section is not shown")
    axis = "" if shaft else "too little of the shaft is shown"
    if knee is None:
        condyles = "the condyles are not shown whole"
    elif joint is None or behind is None:
        condyles = "medial and lateral cannot be told apart: neither the femoral head nor one fibula is shown"
    else:
        condyles = ""
    both = "" if knee is not None else condyles
    plane = _plane(behind, mechanical or shaft)
    downwards = None if shaft is None else (shaft[1], shaft[0])
    neck_line = _line(own.get("neck centre"), head)
    return [
        _angle(bone, "neck-shaft", neck_line, downwards, None, known, neck or axis, downwards),
        _angle(bone, "aLDFA", shaft, joint, plane, known, condyles or axis, shaft),
        _angle(bone, "mLDFA", mechanical, joint, plane, known, hip or condyles),
        _angle(bone, "anatomical-mechanical", shaft, mechanical, None, known, axis or hip or both, shaft),
    ]


def _tibia(bone: str, own: Landmarks, known: Certainty) -> list[AngleReport]:
    joint = _line(own.get("lateral plateau"), own.get("medial plateau"))
    plateau, ankle = _middle(_pair(own, "plateau", "")), own.get("ankle centre")
    mechanical, shaft = _line(plateau, ankle), _line(own.get("shaft upper"), own.get("shaft lower"))
    if plateau is None:
        knee = "the plateau is not shown whole"
    elif joint is None:
        knee = "medial and lateral cannot be told apart: neither the medial malleolus nor one fibula is shown"
    else:
        knee = ""
    distal = "" if ankle is not None else "the ankle is not shown"
    axis = "" if shaft else "too little of the shaft is shown"
    return [
        _angle(bone, "MPTA", mechanical, joint, _plane(joint, mechanical), known, distal or knee),
        _angle(bone, "aMPTA", shaft, joint, _plane(joint, shaft), known, axis or knee, shaft),
    ]


def _leg(
    landmarks: Mapping[str, Landmarks], pair: tuple[str, str], certainties: Mapping[str, Certainty]
) -> list[AngleReport]:
    """Angles between femur and tibia: as the leg lay, not as it stands under load."""
    femur, tibia = (landmarks.get(bone, {}) for bone in pair)
    errors = [certainties[bone].error_mm for bone in pair]
    worst = None if None in errors else max(error for error in errors if error is not None)
    known = Certainty(worst, certainties[pair[0]].angle_open_deg)
    thigh = _line(_middle(_pair(femur, "condyle", " distal")), femur.get("head centre"))
    shank = _line(_middle(_pair(tibia, "plateau", "")), tibia.get("ankle centre"))
    above = _line(femur.get("medial condyle distal"), femur.get("lateral condyle distal"))
    below = _line(tibia.get("medial plateau"), tibia.get("lateral plateau"))
    behind = _line(femur.get("medial condyle posterior"), femur.get("lateral condyle posterior"))
    shaft = _line(femur.get("shaft lower"), femur.get("shaft upper"))
    plane = _plane(behind, thigh or shaft)
    whole = "" if thigh and shank else "hip, knee and ankle are not all shown"
    joint = "" if above and below else "the sides of both joint lines are not shown"
    turned = "" if plane is not None else "the frontal plane is not shown"
    name = f"{pair[0]}, {pair[1]}"
    return [
        _angle(name, "HKA", thigh, shank, plane, known, whole or turned),
        _angle(name, "JLCA", above, below, plane, known, joint or turned),
    ]


def _plane(across: _Line | None, axis: _Line | None) -> Matrix | None:
    """Normal (3,) of the plane along an axis and across it; None if there is none."""
    if across is None or axis is None:
        return None
    normal = np.cross(across[1] - across[0], axis[1] - axis[0])
    size = float(np.linalg.norm(normal))
    return None if size < 1e-6 else np.asarray(normal / size)


def _angle(
    bone: str,
    name: str,
    one: _Line | None,
    other: _Line | None,
    plane: Matrix | None,
    known: Certainty,
    lacking: str,
    shaft: _Line | None = None,
) -> AngleReport:
    """The angle between two lines, in a plane if there is one, with its 95 % interval; one may be a shaft's."""
    if lacking or one is None or other is None:
        return AngleReport(bone=bone, name=name, degrees=None, interval_deg=None, not_shown=lacking or "not shown")
    ways = [line[1] - line[0] for line in (one, other)]
    if plane is not None:
        ways = [way - (way @ plane) * plane for way in ways]
    lengths = [float(np.linalg.norm(way)) for way in ways]
    if min(lengths) < 1.0:
        return AngleReport(bone=bone, name=name, degrees=None, interval_deg=None, not_shown="two landmarks are one")
    cosine = float(ways[0] @ ways[1]) / (lengths[0] * lengths[1])
    degrees = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    interval = None
    if known.error_mm is not None:
        # Either end of either line is off by the surface's error, independently of the other.
        of_lines = np.rad2deg(np.arctan([np.sqrt(2) * known.error_mm / length for length in lengths]))
        bent = [_SHAFT_DEG_MM / length for line, length in zip((one, other), lengths, strict=True) if line is shaft]
        sigma_deg = np.linalg.norm([*of_lines, *bent, _METHOD_DEG[name]])
        half = float(np.hypot(_SIGMAS * sigma_deg, known.angle_open_deg))
        interval = [round(max(0.0, degrees - half), 1), round(min(180.0, degrees + half), 1)]
    return AngleReport(bone=bone, name=name, degrees=round(degrees, 1), interval_deg=interval, not_shown="")


def _rounded(at: Matrix) -> list[float]:
    return [round(float(each), 2) for each in at]
