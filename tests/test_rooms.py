"""Every module can be imported by itself: no command hides one that cannot."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import calibration
import navnode

_NEED = {
    "navnode.projector.autograd": "torch",
    "navnode.reconstruction.network": "torch",
    "navnode.reconstruction.training": "torch",
}
"""What needs a package that need not be installed."""
_MODULES = sorted(
    module.name
    for package in (navnode, calibration)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if module.name not in ("navnode.__main__", "navnode.native.libnavnode_native")  # runs the command; is no module
)


@pytest.mark.parametrize("name", _MODULES)
def test_a_module_can_be_imported(name):
    for module, package in _NEED.items():
        if name == module or name.startswith(f"{module}."):
            pytest.importorskip(package)
    assert importlib.import_module(name).__name__ == name


def test_registration_loads_neither_readers_of_files_nor_commands():
    program = (
        "import sys, navnode.registration; "
        "sys.exit(bool({'SimpleITK', 'trimesh', 'typer', 'rich', 'navnode.config'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
