"""A jig to build: parts to print, a drawing in real size, and what to buy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from navnode.errors import ConfigError
from navnode.files.meshes import write_mesh
from navnode.files.whole import refuse_existing, write_text
from navnode.jig.layout import GAP_MM, PLATE_MM, Jig, Part, jig_for, write_jig
from navnode.jig.requests import JigMakeRequest
from navnode.types import Matrix, Mesh

__all__ = ["bracket", "drawing", "make", "plate"]

_CELL_MM = 3.3
"""Half the side of the square around a pocket."""
_PLAY_MM = 0.1
"""By how much a pocket is wider than its bead, at the radius."""
_ROUND = 32
_LEG_MM, _BRACKET_MM, _BRACKET_LONG_MM = 20.0, 4.0, 30.0
_BESIDE_MM = 20.0


def make(request: JigMakeRequest) -> Jig:
    """Write a jig's file, parts and drawing into a folder.

    Raises:
        ConfigError: a value is out of range, a file exists already or cannot be written.
    """
    jig = jig_for(request.limb_mm, request.length_mm, request.bead_mm, request.name, request.seed)
    beads = len(jig.ids)
    jig = replace(
        jig,
        parts=(
            Part("plate under the limb", 1, "PLA or PETG, pockets up, filled solid", "under.stl"),
            Part("plate beside the limb", 1, "PLA or PETG, pockets up, filled solid", "beside.stl"),
            Part("bracket", 2, "for the right angle; glued into the corner", "bracket.stl"),
            Part(f"steel balls, {jig.diameter_mm:g} mm", beads + 4, "for bearings, grade 100 or better"),
            Part("glue", 1, "epoxy or cyanoacrylate; thin tape over the pockets"),
        ),
    )
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{request.out}: cannot be created ({error.strerror})") from error
    files = {name: request.out / name for name in ("jig.json", "drawing.svg", "parts.txt")}
    solids = {"under.stl": plate(jig, "U"), "beside.stl": plate(jig, "S"), "bracket.stl": bracket()}
    for name in (*files, *solids):
        refuse_existing(request.out / name)
    for name, mesh in solids.items():
        write_mesh(mesh, request.out / name)
    write_text(files["drawing.svg"], drawing(jig))
    write_text(files["parts.txt"], "".join(_line(part) for part in jig.parts))
    write_jig(files["jig.json"], jig)
    return jig


def _line(part: Part) -> str:
    return f"{part.count} x {part.name}: {part.note}" + (f" ({part.file})" if part.file else "") + "\n"


def _flat(jig: Jig, letter: str) -> tuple[Matrix, tuple[float, float], tuple[float, float]]:
    """Pockets (K, 2), and the extent along both axes of a plate laid flat, outer side up.

    Axes are (z, x) for the plate under the limb, (y, z) for the one beside: right-handed with the outward normal.
    """
    own = np.array([name[0] == letter for name in jig.ids])
    half = jig.length_mm / 2
    inner = jig.limb_mm / 2 + GAP_MM
    if letter == "U":
        return jig.positions_mm[own][:, [2, 0]], (-half, half), (-inner, inner + PLATE_MM)
    return jig.positions_mm[own][:, [1, 2]], (-inner, inner), (-half, half)


def plate(jig: Jig, letter: str) -> Mesh:
    """A closed plate with blind pockets for its beads, laid flat with the pockets up: mm, from the inner face.

    Args:
        jig: as it was laid out, not as it was measured.
        letter: ``U`` under the limb, ``S`` beside it.
    """
    pockets, (p0, p1), (q0, q1) = _flat(jig, letter)
    p = np.unique(np.round([p0, p1, *(pockets[:, 0] - _CELL_MM), *(pockets[:, 0] + _CELL_MM)], 4))
    q = np.unique(np.round([q0, q1, *(pockets[:, 1] - _CELL_MM), *(pockets[:, 1] + _CELL_MM)], 4))
    wide, high = len(p), len(q)
    flat = np.stack(np.meshgrid(p, q, indexing="ij"), axis=-1).reshape(-1, 2)
    count = len(flat)
    vertices = [np.column_stack([flat, np.zeros(count)]), np.column_stack([flat, np.full(count, PLATE_MM)])]
    triangles: list[tuple[int, int, int]] = []
    cell_of = {
        (int(np.searchsorted(p, u - _CELL_MM - 1e-3)), int(np.searchsorted(q, v - _CELL_MM - 1e-3))): (u, v)
        for u, v in pockets
    }
    used = 2 * count
    radius = jig.diameter_mm / 2 + _PLAY_MM
    angles = 2 * np.pi * np.arange(_ROUND) / _ROUND - np.pi
    circle = radius * np.column_stack([np.cos(angles), np.sin(angles)])
    for i in range(wide - 1):
        for j in range(high - 1):
            a, b, c, d = i * high + j, (i + 1) * high + j, (i + 1) * high + j + 1, i * high + j + 1
            triangles += [(a, c, b), (a, d, c)]
            corners = [count + each for each in (a, b, c, d)]
            if (i, j) not in cell_of:
                triangles += [(corners[0], corners[1], corners[2]), (corners[0], corners[2], corners[3])]
                continue
            middle = np.array(cell_of[i, j])
            top, floor, center = used, used + _ROUND, used + 2 * _ROUND
            deep_mm = PLATE_MM - jig.diameter_mm
            vertices += [np.column_stack([middle + circle, np.full(_ROUND, z)]) for z in (PLATE_MM, deep_mm)]
            vertices.append(np.array([[*middle, deep_mm]]))
            used += 2 * _ROUND + 1
            for n in range(_ROUND):
                m = (n + 1) % _ROUND
                near = n * 4 // _ROUND
                after = m * 4 // _ROUND
                # Each quarter of the circle, from the middle of one side to that of the next, fans from its corner.
                triangles.append((corners[near], top + m, top + n))
                if after != near:
                    triangles.append((corners[near], corners[after], top + m))
                triangles += [(top + n, top + m, floor + m), (top + n, floor + m, floor + n)]
                triangles.append((floor + n, floor + m, center))
    sides = [(i * high, (i + 1) * high) for i in range(wide - 1)]
    sides += [((wide - 1) * high + j, (wide - 1) * high + j + 1) for j in range(high - 1)]
    sides += [((i + 1) * high + high - 1, i * high + high - 1) for i in range(wide - 1)]
    sides += [(j + 1, j) for j in range(high - 1)]
    for a, b in sides:
        triangles += [(a, b, count + b), (a, count + b, count + a)]
    return Mesh(np.concatenate(vertices).astype(np.float32), np.array(triangles, np.uint32))


def bracket() -> Mesh:
    """A closed L that holds the plates at a right angle."""
    s, t = _LEG_MM, _BRACKET_MM
    outline = np.array([(t, t), (t, s), (0, s), (0, 0), (s, 0), (s, t)])
    count = len(outline)
    vertices = np.concatenate([np.column_stack([outline, np.full(count, z)]) for z in (0.0, _BRACKET_LONG_MM)])
    triangles = []
    for n in range(1, count - 1):  # all of it is seen from the inner corner
        triangles += [(0, n + 1, n), (count, count + n, count + n + 1)]
    for n in range(count):
        m = (n + 1) % count
        triangles += [(n, m, count + m), (n, count + m, count + n)]
    return Mesh(vertices.astype(np.float32), np.array(triangles, np.uint32))


def drawing(jig: Jig) -> str:
    """SVG in real size: both plates from outside, with every bead's name and place, and the jig seen along the limb."""
    parts, top = [], _BESIDE_MM
    widest = 0.0
    for letter, title in (("U", "plate under the limb, from below (outside)"), ("S", "plate beside the limb, outside")):
        pockets, (p0, p1), (q0, q1) = _flat(jig, letter)
        names = [name for name in jig.ids if name[0] == letter]
        if letter == "S":  # z to the right on both; what is seen from outside stays so
            pockets, (p0, p1), (q0, q1) = np.column_stack([pockets[:, 1], -pockets[:, 0]]), (q0, q1), (-p1, -p0)
        left = _BESIDE_MM - p0
        parts.append(_text(_BESIDE_MM, top - 8, f"{title}: {p1 - p0:g} x {q1 - q0:g} x {PLATE_MM:g} mm", 5))
        parts.append(_box(left + p0, top, p1 - p0, q1 - q0))
        for name, (u, v) in zip(names, pockets, strict=True):
            x, y = left + u, top + q1 - v
            parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{jig.diameter_mm / 2:g}"/>')
            parts.append(_text(x + 2.2, y - 1, name, 2.6) + _text(x + 2.2, y + 2, f"{u:.2f}, {v:.2f}", 2.0))
        widest = max(widest, p1 - p0)
        top += q1 - q0 + 2 * _BESIDE_MM
    inner, half = jig.limb_mm / 2 + GAP_MM, jig.limb_mm / 2
    parts.append(_text(_BESIDE_MM, top - 8, f"along the limb (+z away): limb up to {jig.limb_mm:g} mm", 5))
    x0, y0 = _BESIDE_MM + inner, top + inner
    parts.append(f'<circle cx="{x0:g}" cy="{y0:g}" r="{half:g}" stroke-dasharray="3 2"/>')
    parts.append(_box(x0 - inner, y0 + inner, 2 * inner + PLATE_MM, PLATE_MM))
    parts.append(_box(x0 + inner, y0 - inner, PLATE_MM, 2 * inner))
    parts.append(_text(x0 - 8, y0 + inner + 4, "under", 4) + _text(x0 + inner - 18, y0, "beside", 4))
    width, height = widest + 2 * _BESIDE_MM, top + 2 * inner + 2 * _BESIDE_MM
    note = (
        f"{jig.name}. Steel balls of {jig.diameter_mm:g} mm, flush with the outer faces. Numbers: mm from the middle."
    )
    parts.append(_text(_BESIDE_MM, height - 8, note, 4))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}mm" height="{height:g}mm" '
        f'viewBox="0 0 {width:g} {height:g}" fill="none" stroke="black" stroke-width="0.25" '
        f'font-family="sans-serif">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, size: float) -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" fill="black" stroke="none">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
