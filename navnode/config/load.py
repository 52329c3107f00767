"""Configurations from TOML files and sessions. Errors name the key; renamed keys of older versions are accepted."""

from __future__ import annotations

import contextlib
import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

import navnode
from navnode.config.sections import Config, Section, WorkerConfig, is_ct_file
from navnode.config.sources import DicomSource, Source, VideoSource
from navnode.errors import ConfigError
from navnode.security.tls import Tls

__all__ = ["convert", "decode", "find", "load", "load_struct", "load_worker", "parse", "preset", "shipped"]

_T = TypeVar("_T")
_AnySection = TypeVar("_AnySection", bound=Section)

_MOVED = {
    ("calibration", "latency"): ("calibration", "image_lag"),
    ("recording", "replayed_ns"): ("calibration", "as_of_ns"),
}
"""(Section, key) in older configurations -> its present place."""
_CALIBRATION_PATHS = (
    *("carm", "flex", "handeye", "image_lag", "flatfield", "patient"),
    *("points", "targets", "phantom", "plate", "folder"),
)


def load(path: str | Path) -> Config:
    """Read a node's configuration.

    Raises:
        ConfigError: names the file, the key and, for an unknown key, the most similar one.
    """
    path = find(path)
    folder = path.parent.resolve()  # relative paths are relative to the file
    data = _read(path)
    if "node" in data and data.keys() <= set(WorkerConfig.__struct_fields__):
        raise ConfigError(f"{path} is a worker's configuration, for `navnode worker`")
    loaded = parse(_with_presets(data, folder), str(path))

    def beside(tls: Tls | None) -> Tls | None:
        if tls is None:
            return None
        return Tls(*(str(folder / name) for name in (tls.certificate, tls.key, tls.authorities)))

    replace = msgspec.structs.replace
    remote = loaded.reconstruction.remote
    if remote is not None:
        remote = replace(remote, key=str(folder / remote.key), worker_key=str(folder / remote.worker_key))
    ct = loaded.volume.ct
    if is_ct_file(ct):
        ct = str(folder / ct)

    def resolved(section: _AnySection, *names: str) -> _AnySection:
        paths = {name: str(folder / getattr(section, name)) for name in names if getattr(section, name)}
        return replace(section, **paths)

    def placed(source: Source) -> Source:
        match source:
            case DicomSource():
                return replace(resolved(source, "store"), tls=beside(source.tls))
            case VideoSource():
                return resolved(source, "device") if source.is_file else source
        return replace(source, tls=beside(source.tls))

    return replace(
        loaded,
        calibration=resolved(loaded.calibration, *_CALIBRATION_PATHS),
        tools=tuple(resolved(tool, "pivot", "spin") for tool in loaded.tools),
        bodies=tuple(resolved(body, "labels", "file") for body in loaded.bodies),
        volume=replace(loaded.volume, ct=ct),
        plans=resolved(loaded.plans, "file"),
        sources=tuple(map(placed, loaded.sources)),
        console=replace(loaded.console, tls=beside(loaded.console.tls)),
        reconstruction=replace(loaded.reconstruction, remote=remote),
    )


def preset(path: str | Path) -> dict[str, Any]:
    """A C-arm's preset: keys of :class:`VideoSource`, from a file or a shipped one (``carms/NAME.toml``).

    Raises:
        ConfigError: there is no such file, or it holds other keys; names it.
    """
    path = find(path)
    data = _read(path)
    _check_finite(data, str(path), "")
    for key in ("type", "device", "port"):
        if key in data:
            raise ConfigError(f"{path}: {key} is not a C-arm's but the place's; it stands in the configuration")
    convert({"type": "video", "device": "0", **data}, VideoSource, str(path))
    return data


def over_preset(given: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A source's own keys over those of its preset; a region of its own may be of a picture of another size."""
    if "region" in own:
        given = {key: value for key, value in given.items() if key != "picture_px"}
    return {**given, **own}


def _with_presets(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sources with the keys of their presets; a source's own keys come first."""
    if not isinstance(sources := data.get("sources"), list):
        return data
    merged = []
    for source in sources:
        if isinstance(source, dict) and source.get("type") == "video" and "preset" in source:
            named = folder / str(source["preset"])
            given = preset(named if named.is_file() else str(source["preset"]))
            source = over_preset(given, {key: value for key, value in source.items() if key != "preset"})
        merged.append(source)
    return {**data, "sources": merged}


def load_worker(path: str | Path) -> WorkerConfig:
    """Read the configuration of a worker on another machine.

    Raises:
        ConfigError: as :func:`load`.
    """
    path = find(path)
    loaded, folder = load_struct(path, WorkerConfig), path.parent.resolve()
    return msgspec.structs.replace(loaded, key=str(folder / loaded.key), node_key=str(folder / loaded.node_key))


def find(path: str | Path) -> Path:
    """Find a configuration by path, or one shipped with navnode by its bare name (``demo.toml``).

    Raises:
        ConfigError: there is no such file.
    """
    wanted = Path(path)
    if wanted.is_file():
        return wanted
    if wanted.parent in (Path(), Path("carms")):
        with contextlib.suppress(ConfigError):
            return shipped(str(wanted))
    if wanted.is_dir():
        raise ConfigError(f"{path}: a folder, not a configuration file")
    raise ConfigError(f"{path}: no such configuration file")


def shipped(name: str) -> Path:
    """Path of a configuration shipped with navnode.

    Raises:
        ConfigError: there is none of that name.
    """
    package = Path(navnode.__file__).parent
    for folder in (package / "launch", package.parent / "launch"):  # installed; in a checkout
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: navnode ships no such configuration")


def load_struct(path: Path, kind: type[_T]) -> _T:
    """Read a TOML file that is no configuration, checked like one.

    Raises:
        ConfigError: as :func:`load`.
    """
    data = _read(path)
    _check_finite(data, str(path), "")
    return convert(data, kind, str(path))


def parse(data: dict[str, Any], name: str) -> Config:
    """A configuration from decoded TOML or JSON; keys of older versions are read under their present names.

    Raises:
        ConfigError: as :func:`load`.
    """
    _check_finite(data, name, "")
    return convert(_migrated(data, name), Config, name)


def decode(content: bytes, name: str) -> Config:
    """A configuration from JSON, as sessions store it.

    Raises:
        ConfigError: as :func:`load`.
    """
    try:
        data = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    return parse(data, name)


def convert(data: Any, kind: type[_T], name: str) -> _T:
    """Convert decoded TOML or JSON to one of the sections, checked.

    Raises:
        ConfigError: as :func:`load`.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_explain(str(error), kind, data)}") from None


def _migrated(data: dict[str, Any], name: str) -> dict[str, Any]:
    for (section, old), (new_section, new) in _MOVED.items():
        table = data.get(section)
        if not isinstance(table, dict) or old not in table:
            continue
        data = {**data, section: {key: value for key, value in table.items() if key != old}}
        target = data.get(new_section, {})
        if not isinstance(target, dict) or new in target:
            raise ConfigError(f"{name}: {section}.{old} is now called {new_section}.{new}; use only that")
        data[new_section] = {**target, new: table[old]}
    if isinstance(sources := data.get("sources"), list):  # once, all sources were of one type
        data = {**data, "sources": [{"type": "openigtlink", **s} if isinstance(s, dict) else s for s in sources]}
    return data


def _check_finite(data: Any, name: str, where: str) -> None:
    """TOML allows nan and inf; no key here does."""
    if isinstance(data, float) and not np.isfinite(data):
        raise ConfigError(f"{name}: {where}: must be a finite number")
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        part = f"[{key}]" if isinstance(data, list) else f".{key}"
        _check_finite(value, name, (where + part).lstrip("."))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows put a mark before it
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def _explain(text: str, kind: Any, data: Any) -> str:
    """msgspec's message with the key spelled as in the file, and the most similar valid key."""
    place = re.search(r" - at `\$\.?(.*?)`$", text)
    where = place[1] if place else ""
    problem = text[: place.start()] if place else text
    unknown = re.match(r"Object contains unknown field `(.*)`", problem)
    if unknown:
        key = f"{where}.{unknown[1]}" if where else unknown[1]
        near = difflib.get_close_matches(unknown[1], _keys_at(kind, where, data), 1, 0.5)
        return f"unknown key {key!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    missing = re.match(r"Object missing required field `(.*)`", problem)
    if missing:
        return f"key {(where + '.' if where else '') + missing[1]!r} is missing"
    return f"{where}: {problem}" if where else problem


def _keys_at(kind: Any, where: str, data: Any) -> list[str]:
    """The keys of the table at a place such as ``sources[1].tls``."""
    for name, index in re.findall(r"([^.\[\]]+)(?:\[(\d+)\])?", where):
        field = next(f for f in msgspec.structs.fields(kind) if f.name == name)
        data = data[name] if not index else data[name][int(index)]
        kinds = list(_structs(field.type))
        tags = [each.__struct_config__.tag for each in kinds]
        kind = kinds[tags.index(data.get("type")) if len(kinds) > 1 else 0]
    return [field.name for field in msgspec.structs.fields(kind)]


def _structs(hint: Any) -> Iterator[Any]:
    """The sections in a type."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in get_args(hint):
        yield from _structs(part)
