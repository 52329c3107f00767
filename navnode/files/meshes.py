"""Surfaces on disk: STL, PLY and OBJ, in RAS mm or the space that their header names.

trimesh reads them, and takes much for a surface: what is cut short or damaged is found here first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special
from navnode.files.placing import tell, unit_mm
from navnode.files.whole import check_output
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Array, Matrix, Mesh

__all__ = ["ENDINGS", "read_mesh", "write_mesh"]

ENDINGS = (".stl", ".ply", ".obj")
_MAX_BYTES = 1 << 30
_MOST_ELEMENTS = 1 << 27
_EXTENT_MM = (4.0, 4_000.0)
"""Of the longest side: less is metres, more is microns."""


def read_mesh(path: str | Path, units: str = "") -> Mesh:
    """Read a triangle surface from STL, PLY or OBJ.

    Args:
        units: of its coordinates: m, cm, mm or um; '': mm.

    Returns:
        RAS mm.

    Raises:
        ConfigError: the file is missing, too large, cut short, damaged or not a surface, or cannot be in that unit;
            names it.
    """
    path = Path(path)
    refuse_special(path)
    factor = unit_mm(units, "--units") if units else 1.0
    try:
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"{path}: surfaces are {', '.join(ENDINGS)} files")
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: too large for a surface")
        content, ras_from_space = _checked(path, path.read_bytes())
        import trimesh  # here and below: a large package that few processes need

        kind = path.suffix.lower()[1:]
        loaded = trimesh.load(io.BytesIO(content), kind, force="mesh", process=False, skip_materials=True)
        vertices, triangles = np.asarray(loaded.vertices, np.float32), np.asarray(loaded.faces, np.uint32)
        if not len(triangles) or not np.isfinite(vertices).all() or triangles.max() >= len(vertices):
            raise ConfigError(f"{path}: not a surface (no triangles, or invalid vertices)")
        _check_extent(path, vertices * factor)
        if path.suffix.lower() == ".obj":
            _check_end(path, triangles, len(vertices))
        return Mesh((vertices @ ras_from_space * factor).astype(np.float32), triangles)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ConfigError:
        raise
    except Exception as error:  # trimesh's readers have no common error
        raise ConfigError(f"{path}: not a surface (STL, PLY or OBJ)") from error


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a surface in RAS mm as STL, PLY or OBJ, by the file's extension.

    Raises:
        ConfigError: the extension is unknown, or the file cannot be written.
    """
    path = Path(path)
    check_output(path, ENDINGS)
    import trimesh

    try:
        trimesh.Trimesh(mesh.vertices_mm, mesh.triangles, process=False).export(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


# --- whole and undamaged ---------------------------------------------------------------------------------------------


def _checked(path: Path, content: bytes) -> tuple[bytes, Matrix]:
    """Refuse a surface that is cut short; what is to be read of it, and 3x3 from the space that its header names
    (Slicer's ``SPACE=LPS``) to RAS."""
    plain = content
    match path.suffix.lower():
        case ".stl":
            _check_stl(path, content)
        case ".ply":
            _check_ply(path, content)
        case _:
            plain = _plain_obj(path, content)
    stated = re.search(rb"SPACE\s*=\s*(\w+)", content[:2000])
    if stated is None or stated[1] == b"RAS":
        return plain, np.eye(3)
    if stated[1] != b"LPS":
        raise ConfigError(f"{path}: SPACE={stated[1].decode('latin-1')[:20]} says nothing of the patient")
    return plain, RAS_FROM_LPS[:3, :3]


def _check_extent(path: Path, vertices_mm: Array) -> None:
    extent = float(np.ptp(vertices_mm, axis=0).max())
    if not _EXTENT_MM[0] <= extent <= _EXTENT_MM[1]:
        raise ConfigError(
            f"{path}: {extent:.3g} mm along its longest side cannot be a bone or a body; --units says in what its "
            "distances are"
        )


def _check_stl(path: Path, content: bytes) -> None:
    count = int.from_bytes(content[80:84], "little")
    binary = len(content) >= 84 and len(content) == 84 + 50 * count  # whatever the text before says
    if binary or not (content.lstrip()[:5].lower() == b"solid" and b"facet" in content[:1000]):
        if len(content) < 84 or len(content) != 84 + 50 * count:
            raise ConfigError(f"{path}: incomplete ({len(content)} bytes, its header states {count} triangles)")
        return
    if not content.rstrip().splitlines()[-1].lstrip().lower().startswith(b"endsolid"):
        raise ConfigError(f"{path}: cut short (no endsolid)")
    lines = [line.split() for line in content.lower().splitlines() if line.strip()]
    wanted = [[b"facet", b"normal"], [b"outer", b"loop"], *[[b"vertex"]] * 3, [b"endloop"], [b"endfacet"]]
    body = [line for line in lines if line[0] not in (b"solid", b"endsolid")]
    whole = len(body) % 7 == 0 and all(
        line[: len(wanted[n % 7])] == wanted[n % 7] and (line[0] != b"vertex" or len(_floats(line[1:])) == 3)
        for n, line in enumerate(body)
    )
    if not whole:
        raise ConfigError(f"{path}: damaged (not all of its facets are complete)")


_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_WHOLE = re.compile(rb"-?\d{1,10}")
_Element = tuple[int, list[tuple[str, ...]]]
"""How many, and the types of the properties of each: one, or two of a list (of its length, of its values)."""


def _check_ply(path: Path, content: bytes) -> None:
    """The elements that the header states, neither fewer nor more."""
    ends = re.search(rb"(?m)^end_header[ \t]*\r?\n", content)
    if not content.startswith(b"ply") or ends is None:
        raise ConfigError(f"{path}: not a PLY (its header has no end)")
    form, elements = _ply_header(path, content[: ends.start()].decode("latin-1").splitlines())
    body = content[ends.end() :]
    if form == "ascii":
        if not content.endswith((b"\n", b"\r")):
            raise ConfigError(f"{path}: cut short (its last line does not end)")
        lines = iter([line.split() for line in body.splitlines() if line.strip()])
        problem = _ply_lines(elements, lines)
        if not problem and next(lines, None) is not None:
            problem = "lines of data follow"
        if problem:
            raise ConfigError(f"{path}: incomplete or damaged ({problem})")
        return
    end = _after(elements, body, "<" if form == "binary_little_endian" else ">")
    if end != len(body):
        what = "it ends within its data" if end < 0 else f"{len(body) - end} bytes follow its data"
        raise ConfigError(f"{path}: incomplete or damaged ({what})")


def _ply_header(path: Path, lines: list[str]) -> tuple[str, list[_Element]]:
    form = ""
    elements: list[_Element] = []
    names: list[tuple[str, list[str]]] = []
    for line in (words for words in map(str.split, lines[1:]) if words):
        match line:
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", ("ascii" | "binary_little_endian" | "binary_big_endian") as form, _]:
                pass
            case ["element", name, count] if count.isdigit() and int(count) < _MOST_ELEMENTS:
                elements.append((int(count), []))
                names.append((name, []))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= _TYPES.keys():
                elements[-1][1].append((_TYPES[length], _TYPES[kind]))
                names[-1][1].append(name)
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1][1].append((_TYPES[kind],))
                names[-1][1].append(name)
            case _:
                raise ConfigError(f"{path}: damaged (its header has the line {' '.join(line)[:60]!r})")
    has = dict(names)
    if len(has) != len(names) or not {"x", "y", "z"} <= set(has.get("vertex", ())) or not form:
        raise ConfigError(f"{path}: damaged (its header states no vertices with x, y and z)")
    if not {"vertex_indices", "vertex_index"} & set(has.get("face", ())):
        raise ConfigError(f"{path}: not a surface (its header states no faces)")
    if any(len(set(each)) != len(each) for each in has.values()):
        raise ConfigError(f"{path}: damaged (a property of its header occurs twice)")
    return form, elements


def _ply_lines(elements: list[_Element], lines: Iterator[list[bytes]]) -> str:
    """What is wrong with lines of data; ''."""
    for count, properties in elements:
        for n in range(count):
            words = next(lines, None)
            if words is None:
                return f"element {n + 1} of {count} is missing"
            at = 0
            for each in properties:
                if len(each) == 2:
                    length = words[at] if at < len(words) else b""
                    if not length.isdigit() or len(length) > 9:
                        return f"element {n + 1} of {count} has no list"
                    at += 1 + int(length)
                    whole = each[1][0] != "f"
                    start = at - int(length)
                else:
                    at += 1
                    whole, start = each[0][0] != "f", at - 1
                if whole and not all(map(_WHOLE.fullmatch, words[start:at])):
                    return f"element {n + 1} of {count} has another number than a whole one"
            if at != len(words) or len(_floats(words)) != at:
                return f"element {n + 1} of {count} has {len(words)} numbers, not {at}"
    return ""


def _after(elements: list[_Element], body: bytes, order: str) -> int:
    """Where the data of these elements end; -1: not within the file."""
    at = 0
    for count, properties in elements:
        lists = [each for each in properties if len(each) == 2]
        if not lists:
            at += count * sum(int(each[0][1]) for each in properties)
        else:
            at = _after_lists(count, properties, body, at, order)
        if not 0 <= at <= len(body):
            return -1
    return at


def _after_lists(count: int, properties: list[tuple[str, ...]], body: bytes, at: int, order: str) -> int:
    if len(properties) == 1:  # nearly always all triangles
        length, kind = (order + each for each in properties[0])
        row = np.dtype([("n", length), ("v", kind, 3)])
        if at + count * row.itemsize <= len(body) and (np.frombuffer(body, row, count, at)["n"] == 3).all():
            return at + count * row.itemsize
    for _ in range(count):
        for each in properties:
            if len(each) == 2:
                size = int(each[0][1])
                if at + size > len(body):
                    return -1
                length_of = float(np.frombuffer(body, order + each[0], 1, at)[0])
                if not 0 <= length_of <= 255:
                    return -1
                at += size + int(length_of) * int(each[1][1])
            else:
                at += int(each[0][1])
        if at > len(body):
            return -1
    return at


def _floats(words: list[bytes]) -> list[float]:
    """Those of the words that are finite numbers."""
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            return found
    return found if np.isfinite(found).all() else []


_KNOWN = frozenset(b"v vn vt vp f l p g o s usemtl mtllib mg lod maplib usemap bevel c_interp d_interp".split())
_STATED = re.compile(rb"(?im)^#\s*(?:(\d+)\s+(vertices|faces|triangles)|(vertices|faces)\s*:\s*(\d+))\s*\r?$")


def _plain_obj(path: Path, content: bytes) -> bytes:
    """The vertices and faces of an OBJ. It states no sizes: complete lines, and as many as its comments count, where
    they do."""
    if not content.endswith((b"\n", b"\r")):
        raise ConfigError(f"{path}: cut short (its last line does not end)")
    vertices = faces = 0
    plain: list[bytes] = []
    for number, line in _logical_lines(content):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if words[0] not in _KNOWN:
            raise ConfigError(f"{path}: damaged (line {number} begins with {words[0].decode('latin-1')[:20]!r})")
        if words[0] == b"v":
            vertices += 1
            numbers = _floats(words[1:])
            if len(words) < 4 or len(numbers) != len(words) - 1:
                raise ConfigError(f"{path}: damaged (line {number}: a vertex is three finite numbers)")
            if len(numbers) in (4, 7) and numbers[3] != 1:
                raise ConfigError(f"{path}: line {number}: a vertex of weight {numbers[3]:g}, which is not read")
            plain.append(b" ".join(words[:4]))
        elif words[0] == b"f":
            faces += 1
            corners = [word.split(b"/")[0] for word in words[1:]]
            places = [int(each) if _WHOLE.fullmatch(each) else 0 for each in corners]
            places = [place + vertices + 1 if place < 0 else place for place in places]  # counted back from the last
            if len(corners) < 3 or not all(0 < place <= vertices for place in places):
                raise ConfigError(f"{path}: damaged (line {number}: a face is three or more vertices that came before)")
            plain.append(b"f " + b" ".join(b"%d" % place for place in places))
    for first, name, other_name, second in _STATED.findall(content):
        stated = int((first or second)[:10])
        counted = vertices if (name or other_name).lower() == b"vertices" else faces
        if stated != counted:
            what = (name or other_name).decode().lower()
            raise ConfigError(f"{path}: incomplete ({counted} {what}, a comment states {stated})")
    return b"\n".join([*plain, b""])


def _logical_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; a backslash at the end continues a line on the next."""
    begun, first = b"", 0
    for number, line in enumerate(content.splitlines(), 1):
        first = first or number
        if line.endswith(b"\\"):
            begun += line[:-1] + b" "
            continue
        yield first, begun + line
        begun, first = b"", 0
    if begun:
        yield first, begun


def _check_end(path: Path, triangles: Array, vertices: int) -> None:
    """Whether an OBJ may end too early: a cut one has vertices without faces, and an edge where it was cut."""
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, uses = np.unique(pairs, axis=0, return_counts=True)
    edges = int((uses == 1).sum())
    unused = vertices - len(np.unique(triangles))
    if edges and unused:
        raise ConfigError(f"{path}: incomplete ({unused} vertices belong to no face, and the surface is open)")
    if edges:
        tell(path, f"its surface is open along {edges} edges; an OBJ does not say whether it is complete")
