"""The report of a model as one page that needs no network: pictures, model, figures and limits."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from navnode import geometry as g
from navnode.files.report import BAD, STYLE, figure, table
from navnode.offline.model_report import AngleReport, BoneReport, ModelReport
from navnode.offline.reading import Picture, drawn
from navnode.reconstruction.reading import Reading
from navnode.types import FloatArray, Matrix, Mesh

__all__ = ["Shown", "angle_text", "outlined", "page"]

_SCALE = 3
_DOUBTFUL = "#c98a1b"
_COLOURS_BGR = ((90, 190, 255), (120, 255, 120), (255, 190, 90), (255, 120, 220), (120, 255, 255), (200, 200, 200))
_MOST_ERROR_MM = 6.0
"""At the end of the colours of the 3-D view."""
_QUANTA = 60_000
_MOST_FINE = 65_535
"""Vertices that 16-bit indices reach."""
_SCRIPT = Path(__file__).with_name("turning.js")
_OWN_STYLE = """
#turning{width:100%;height:30rem;background:#12161d;border-radius:.4rem;touch-action:none;cursor:grab}
.scale{height:.8rem;background:linear-gradient(90deg,#3fb37f,#e0c341,#c23b32);border-radius:.2rem}
.ends{display:flex;justify-content:space-between;font-size:13px;color:#56606e}
.use{color:#56606e}li{margin:.2rem 0}
"""
_DOSE = (
    "Typical effective doses, not measured here: an X-ray of a limb about 0.001 mSv (Mettler et al., Radiology 248, "
    "2008), so {pictures} pictures about {dose:g} mSv; a CT of the ankle 0.07, of the knee 0.16, of the elbow 0.14, of "
    "the hip 3.1 mSv (Biswas et al., J Bone Joint Surg Am 91, 2009)."
)


@dataclass(frozen=True)
class Shown:
    """A bone for the page."""

    name: str
    mesh: Mesh
    error_mm: FloatArray | None
    """(V,), see :class:`navnode.offline.measures.Measures`."""


def page(report: ModelReport, bones: Sequence[Shown], readings: Sequence[Reading], poses: Sequence[Matrix]) -> str:
    """The whole page.

    Args:
        bones: as in the report; none if the model is INVALID.
        readings, poses: of every picture, ``volume_from_carm``.
    """
    colour = BAD if report.status == "INVALID" else _DOUBTFUL
    parts = [
        f"<h1>Bones from {len(report.pictures)} X-rays</h1>",
        '<p class="use">Research use only: not for diagnosis, not for treatment.</p>',
        f'<p class="verdict" style="background:{colour}">{html.escape(_verdict(report))}</p>',
        f"<p>{html.escape(_sentence(report.reason))}</p>",
    ]
    if bones:
        parts += [_turning(bones), _bones(report), _angles(report)]
    parts.append("<h2>Pictures</h2>")
    for number, (reading, pose) in enumerate(zip(readings, poses, strict=True), 1):
        moved_mm = report.pictures[number - 1].moved_mm
        parts.append(
            figure(_jpeg(drawn(reading)), f"Picture {number}, and what was read in it: millimetres of solid bone")
        )
        if bones:
            text = f"Picture {number} with the model's outlines, as it would throw its shadow"
            if moved_mm:
                text += f"; moved by {moved_mm:+.0f} mm along the limb to agree with picture 1"
            parts.append(figure(_jpeg(outlined(reading, pose, bones)), text))
    parts += ["<h2>Limits</h2>", _limits(report)]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bones from X-rays</title>'
        f"<style>{STYLE}{_OWN_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _verdict(report: ModelReport) -> str:
    if report.status == "INVALID":
        return "INVALID: there is no model of these pictures"
    return f"{report.status}: an approximate model; read below how far to trust it"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _bones(report: ModelReport) -> str:
    head = (
        "bone",
        "length mm",
        "volume cm³",
        "expected error mm",
        "lower / middle / upper",
        "outside the pictures",
        "mesh",
    )
    rows = [_row(bone, report.scale_open) for bone in report.bones]
    text = (
        "<p>Expected error: mean distance from the true surface, with the 95 % interval of that mean. By third of the "
        "bone it shows where the model is less certain; their intervals are as wide by factor (report.json). "
        "Lengths are along the bone's principal axis.</p>"
    )
    return f"<h2>Bones</h2>{table(head, rows)}{text}"


_NAMES = {
    "neck-shaft": "neck-shaft angle",
    "aLDFA": "aLDFA: joint line to the shaft's axis, lateral",
    "mLDFA": "mLDFA: joint line to the mechanical axis, lateral",
    "anatomical-mechanical": "between anatomical and mechanical axis",
    "MPTA": "MPTA: joint line to the mechanical axis, medial",
    "aMPTA": "joint line to the shaft's axis, medial",
    "JLCA": "JLCA: between both joint lines",
    "HKA": "HKA: hip, knee, ankle",
}


def _angles(report: ModelReport) -> str:
    """Axes and angles, those that are not shown with the reason."""
    if not report.angles:
        return "<h2>Axes and angles</h2><p>Not shown: no femur or tibia is known as one.</p>"
    rows = [[angle.bone, _NAMES[angle.name], angle_text(angle)] for angle in report.angles]
    lengths = [
        f"{axis.bone}, {axis.name} axis: {np.linalg.norm(np.subtract(axis.upper_mm, axis.lower_mm)):.0f} mm"
        for axis in report.axes
    ]
    text = (
        f"<p>With 95 % intervals. {html.escape('; '.join(lengths)) or 'No axis is shown'}. An anatomical axis is as "
        "long as the shaft that is shown. Joint angles are those of the leg as it lay, not as it stands."
    )
    if report.landmarks:
        text += (
            f" Measured by the landmarks in {html.escape(report.landmarks)}, of which {report.landmarks_placed} were "
            "placed by hand: move them in 3D Slicer, and measure again with --landmarks."
        )
    return f"<h2>Axes and angles</h2>{table(('bone', 'angle', 'degrees'), rows)}{text}</p>"


def angle_text(angle: AngleReport) -> str:
    """An angle for people, with its interval, or why it is not shown."""
    if angle.degrees is None:
        return f"not shown: {angle.not_shown}"
    if angle.interval_deg is None:
        return f"{angle.degrees:.1f} (interval unknown)"
    return f"{angle.degrees:.1f} ({angle.interval_deg[0]:.1f} to {angle.interval_deg[1]:.1f})"


def _row(bone: BoneReport, scale: float) -> list[str]:
    length = f"{bone.length_mm:.0f}" if bone.whole else f"at least {bone.length_mm:.0f}"
    if scale:
        length += f" (± {scale * bone.length_mm:.0f})"
    error = "unknown"
    if bone.error_mm is not None and bone.error_95_mm is not None:
        error = f"{bone.error_mm:.1f} ({bone.error_95_mm[0]:.1f} to {bone.error_95_mm[1]:.1f})"
    outside = "nothing" if bone.whole else "goes on beyond what was found"
    if bone.unseen >= 0.01:
        outside += f"; {bone.unseen:.0%} of the surface not in all pictures"
    mesh = "closed" if bone.closed and bone.oriented else "NOT CLOSED" if not bone.closed else "INSIDE OUT"
    regions = " / ".join(f"{value:.1f}" for value in bone.regions_mm.values())
    name = f"{bone.name} (doubtful: {bone.doubt})" if bone.doubt else bone.name
    name = f"{name} ({bone.side})" if bone.side else name
    return [name, length, f"{bone.volume_cm3:.0f}", error, regions, outside, mesh]


def _limits(report: ModelReport) -> str:
    dose = _DOSE.format(pictures=len(report.pictures), dose=0.001 * len(report.pictures))
    points = [
        f"The pictures' geometry comes from {report.geometry}; they are {report.spread_deg:.0f}° apart.",
        dose,
        "Bones that lie behind one another in all pictures, thin plates and fracture gaps can be missing or joined.",
        "The expected errors take it that the limb lay still between the pictures, against the jig as well, and that "
        "all are of one limb. X-rays hardly show that it moved by some millimetres; they are too small then.",
        "Names are those that the pictures show with certainty; bones without a name are numbered by size.",
        "Research use only.",
    ]
    if report.scale_open:
        points.insert(
            1,
            f"Scale is open by ± {report.scale_open:.0%} and the angle by ± {report.angle_open_deg:.0f}°: both come on "
            "top of the expected errors. Left and right are as the pictures were shown.",
        )
    return "<ul>" + "".join(f"<li>{html.escape(point)}</li>" for point in points) + "</ul>"


def outlined(reading: Reading, volume_from_carm: Matrix, bones: Sequence[Shown]) -> Picture:
    """The X-ray with the outline of every bone's shadow, in a colour each."""
    line = np.asarray(cv2.resize(np.nan_to_num(reading.line_integrals), None, fx=_SCALE, fy=_SCALE), np.float32)
    low, high = np.percentile(line, [1, 99])
    grey = np.clip((line - low) * (255 / max(high - low, 1e-3)), 0, 255).astype(np.uint8)
    picture = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    carm_from_volume = g.inverse(volume_from_carm)
    for number, bone in enumerate(bones):
        colour = _COLOURS_BGR[number % len(_COLOURS_BGR)]
        at = g.project(reading.carm, carm_from_volume, bone.mesh.vertices_mm.astype(np.float64))
        pixels = np.clip((at + 0.5) * _SCALE, -30_000, 30_000)
        shadow = np.zeros(grey.shape, np.uint8)
        for triangle in np.nan_to_num(pixels).round().astype(np.int32)[bone.mesh.triangles]:
            cv2.fillConvexPoly(shadow, triangle, 1)
        outlines, _ = cv2.findContours(shadow, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1, cv2.LINE_AA)
        v, u = np.nonzero(shadow)
        if len(u):
            (width, _), _ = cv2.getTextSize(bone.name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
            x = int(np.clip(u.mean() - width / 2, 2, max(2, picture.shape[1] - width - 2)))
            for ink, thick in (((0, 0, 0), 3), (colour, 1)):
                cv2.putText(
                    picture, bone.name, (x, int(v.mean())), cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, thick, cv2.LINE_AA
                )
    return picture


def _jpeg(picture: Picture) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _turning(bones: Sequence[Shown]) -> str:
    """The bones in space, to be turned, in colours of the expected error."""
    corners = np.concatenate([bone.mesh.vertices_mm for bone in bones])
    low, high = corners.min(axis=0), corners.max(axis=0)
    step_mm = float(max((high - low).max(), 1.0)) / _QUANTA
    middle = (low + high) / 2
    content = {
        "step_mm": step_mm,
        "size_mm": float(np.linalg.norm(high - low)),
        "bones": [_packed(bone, middle, step_mm) for bone in bones],
    }
    data = msgspec.json.encode(content).decode()
    return (
        '<h2>In space</h2><canvas id="turning"></canvas>'
        '<div class="scale"></div><div class="ends"><span>expected error 0 mm</span>'
        f"<span>{_MOST_ERROR_MM:.0f} mm and more</span></div><p>Drag to turn, wheel to zoom; grey: error not known.</p>"
        f'<script type="application/json" id="bones">{data}</script><script>{_SCRIPT.read_text()}</script>'
    )


def _packed(bone: Shown, middle: FloatArray, step_mm: float) -> dict[str, str | bool]:
    at = np.round((bone.mesh.vertices_mm - middle) / step_mm).astype("<i2")
    wide = len(at) > _MOST_FINE
    error = np.full(len(at), 255, np.uint8)
    if bone.error_mm is not None:
        error = np.clip(bone.error_mm * (254 / _MOST_ERROR_MM), 0, 254).astype(np.uint8)

    def text(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        return base64.b64encode(values.tobytes()).decode()

    return {
        "name": bone.name.translate(_SAFE),
        "wide": wide,
        "at": text(at),
        "triangles": text(bone.mesh.triangles.astype("<u4" if wide else "<u2")),
        "error": text(error),
    }


_SAFE = str.maketrans({"<": "", ">": "", "&": ""})
"""Within a script."""
