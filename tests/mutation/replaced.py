"""A pytest plugin that loads one module of navnode from another file: the checkout itself never holds a mistake.

``NAVNODE_MUTANT`` is ``module=file``. Only the process that runs the tests sees it, not the processes that it starts.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

_MODULE, _, _FILE = os.environ.get("NAVNODE_MUTANT", "").partition("=")


class _Replaced(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, _FILE) if fullname == _MODULE else None


if _MODULE:
    assert _MODULE not in sys.modules, f"{_MODULE} was imported before it could be replaced"
    sys.meta_path.insert(0, _Replaced())
