"""The reference of configurations, from the sections that read them: key, default, range, unit, meaning."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import numpy as np

from navnode.config import Config, Rows, WorkerConfig
from sitepages.markdown import code, inline, table

__all__ = ["each_key", "pages"]

_UNITS = {unit: unit for unit in ("mm", "px", "rad", "ms", "s", "ns")}
_UNITS |= {"deg": "°", "hz": "Hz", "mb": "MB", "fps": "1/s", "cm2": "Gy·cm²", "msv": "mSv"}
"""End of a key -> its unit."""
_INTRODUCTION = """# Configuration

Files are TOML, as those in `launch/`. A key that navnode does not know, or a value out of its range, stops the start
and is named: `navnode run CONFIG.toml --check` only checks. Paths are relative to the file.

"""


def pages() -> dict[str, str]:
    """One page of all sections."""
    text = _INTRODUCTION
    for path, kind in dict.fromkeys(_sections(Config)):
        text += _section(path, kind, "##")
    text += "(configuration-worker)=\n## A worker's configuration\n\nOf `navnode worker`, on another machine.\n\n"
    text += _keys("worker", WorkerConfig)
    return {"configuration.md": text}


def each_key() -> Iterator[str]:
    """Every key of a node's configuration, as ``section.key``; both kinds of a source count."""
    for path, kind in _sections(Config):
        for field in msgspec.structs.fields(kind):
            if not _is_section(field.type):
                yield f"{path}.{field.name}"


def _sections(root: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Sections below a struct: (path, struct). A list of tables is one path, for each type of its tables."""
    for field in msgspec.structs.fields(root):
        for kind in _structs(field.type):
            path = f"{above}.{field.name}" if above else field.name
            yield path, kind
            yield from _sections(kind, path)


def _section(path: str, kind: type[msgspec.Struct], level: str) -> str:
    listed = any(path == field.name and _is_list(field.type) for field in msgspec.structs.fields(Config))
    shown = f"[[{path}]]" if listed else f"[{path}]"
    tag = kind.__struct_config__.tag
    title = f'{code(shown)}, type = "{tag}"' if tag else code(shown)
    anchor = re.sub(r"[._]", "-", f"configuration-{path}" + (f"-{tag}" if tag else ""))
    about = inline((inspect.getdoc(kind) or "").partition("\n\n")[0])
    return f"({anchor})=\n{level} {title}\n\n{about}\n\n" + _keys(anchor.removeprefix("configuration-"), kind)


def _keys(prefix: str, kind: type[msgspec.Struct]) -> str:
    rows = []
    for field in msgspec.structs.fields(kind):
        if _is_section(field.type):
            continue
        anchor = f"{{#{prefix}-{field.name}}}".replace("_", "-")
        about = _said(kind).get(field.name, "") or _of_type(field.type)
        rows.append((code(field.name) + anchor, _default(field), _domain(field.type), _unit(field.name), inline(about)))
    return table(("key", "default", "values", "unit", ""), rows)


@functools.cache
def _said(kind: type) -> dict[str, str]:
    """What is written below each field, also of base classes."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = defined.body if isinstance(defined, ast.ClassDef) else []
        for item, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr):
                found[item.target.id] = str(getattr(after.value, "value", ""))
    return found


def _structs(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in get_args(hint):
        yield from _structs(part)


def _is_section(hint: Any) -> bool:
    return any(True for _ in _structs(hint))


def _is_list(hint: Any) -> bool:
    return get_origin(_plain(hint)) is tuple


def _plain(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, msgspec.Meta))
    if get_origin(hint) in (Annotated, Union, types.UnionType):
        for part in get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint):
            yield from _metas(part)


def _of_type(hint: Any) -> str:
    return next((meta.description for meta in _metas(hint) if meta.description), "")


def _domain(hint: Any) -> str:
    """Which values a key may have."""
    plain = _plain(hint)
    meta: dict[str, Any] = {}
    for each in _metas(hint):
        limits = {name: getattr(each, name) for name in ("gt", "ge", "lt", "le", "max_length")}
        meta |= {name: value for name, value in limits.items() if value is not None}
    if get_origin(plain) in (Union, types.UnionType):
        return " or ".join(_domain(part) for part in get_args(plain) if part is not type(None))
    if plain == Rows:
        return "4 rows of 4"
    if get_origin(plain) is Literal:
        return ", ".join(code(f'"{value}"') for value in get_args(plain))
    if get_origin(plain) is tuple:
        parts = get_args(plain)
        return f"list of {_domain(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} of {_domain(parts[0])}"
    name = {bool: "true, false", int: "integer", float: "number", str: "text"}.get(
        plain, getattr(plain, "__name__", "")
    )
    bounds = _bounds(meta)
    if plain is str:
        return f"text, up to {meta['max_length']} characters" if "max_length" in meta else name
    return f"{name} {bounds}".strip()


def _bounds(meta: dict[str, Any]) -> str:
    low = f"over {meta['gt']:,}" if "gt" in meta else f"{meta['ge']:,}" if "ge" in meta else ""
    high = f"under {meta['lt']:,}" if "lt" in meta else f"{meta['le']:,}" if "le" in meta else ""
    low, high = low.replace(",", " "), high.replace(",", " ")
    if low and high:
        return f"{low} to {high}"
    return (f"{low} or more" if "ge" in meta else low) if low else f"up to {high}" if high else ""


def _unit(name: str) -> str:
    return _UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return _toml(field.default)
    return "**required**" if field.default_factory is msgspec.NODEFAULT else _toml(field.default_factory())


def _toml(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return code(str(value).lower())
        case str():
            return code(f'"{value}"')
        case tuple() if np.array_equal(np.array(value), np.eye(4)):
            return "identity"
        case tuple() | list():
            return code("[" + ", ".join(_toml(each).strip("`") for each in value) + "]")
    return code(f"{value:.15g}" if isinstance(value, float) else str(value))
