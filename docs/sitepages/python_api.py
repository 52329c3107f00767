"""The reference of Python, from docstrings: every public name of the rooms that programs may import."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

__all__ = ["ROOMS", "pages"]

ROOMS = {
    "navnode": "Sessions as arrays.",
    "navnode.types": "The values that everything speaks of.",
    "navnode.geometry": "Rigid transforms, projection, covariances.",
    "navnode.errors": "What can go wrong, by what to do.",
    "navnode.config": "Configurations.",
    "navnode.igtl": "OpenIGTLink: messages, servers, clients.",
    "navnode.projector": "X-ray projection and its derivatives.",
    "navnode.registration": "2D/3D registration.",
    "navnode.reconstruction": "Volumes from X-rays.",
    "navnode.recording": "Sessions.",
    "navnode.files": "Files: volumes, views, surfaces, calibrations.",
    "navnode.xray": "From counts to line integrals, and back.",
    "navnode.planning": "Plans of entry and target.",
    "navnode.simulation": "The virtual operating room.",
}
"""What programs import, and what it is for. The loop, the node and the commands are no library."""


def pages() -> dict[str, str]:
    """A page for every room, and a list of them. A name stands once, in the shortest module that lists it."""
    index = "Python\n======\n\n.. list-table::\n\n"
    for room, about in ROOMS.items():
        index += f"   * - :doc:`{room} <python/{room}>`\n     - {about}\n"
    index += "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   python/{room}\n" for room in ROOMS)
    seen: set[int] = set()
    return {"python.rst": index} | {f"python/{room}.rst": _page(room, seen) for room in ROOMS}


def _page(room: str, seen: set[int]) -> str:
    text = f"{room}\n{'=' * len(room)}\n\n"
    for module in _modules(room):
        names = [name for name in module.__all__ if _is_new(getattr(module, name), seen)]
        if module.__name__ != room:
            if not names:
                continue
            text += f"{module.__name__}\n{'-' * len(module.__name__)}\n\n"
        text += f".. automodule:: {module.__name__}\n   :no-members:\n\n"
        text += "".join(_directive(module, name) for name in names)
    return text


def _modules(room: str) -> Iterator[ModuleType]:
    """A room's modules that can be imported here: the package, where it lists names, or else what is in it."""
    package = importlib.import_module(room)
    listed = not hasattr(package, "__path__") or getattr(package, "__all__", None)
    below = () if listed else pkgutil.walk_packages(package.__path__, f"{room}.")
    for name in [room, *sorted((each.name for each in below), key=lambda each: (each.count("."), each))]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue  # it needs an extra that is not installed
        if "__all__" in vars(module):
            yield module


def _is_new(value: Any, seen: set[int]) -> bool:
    """Whether an object has no entry yet; values without an identity of their own, such as numbers, always are new."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return not inspect.ismodule(value)
    if id(value) in seen:
        return False
    seen.add(id(value))
    return True


def _directive(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        members = "\n   :members:\n   :undoc-members:" if value.__module__.startswith("navnode") else ""
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
        return f".. {kind}:: {module.__name__}.{name}{members}\n\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {module.__name__}.{name}\n\n"
    # Not autodata: of a value that says nothing itself it would show what its type says.
    said = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name), [])
    return f".. py:data:: {module.__name__}.{name}\n\n" + "".join(f"   {line}\n" for line in said) + "\n"
