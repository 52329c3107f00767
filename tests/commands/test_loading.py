"""What commands and processes load: libraries that they do not need cost seconds at every start, and memory."""

import json
import subprocess
import sys

import pytest

from navnode import cli
from navnode.commands import mounted

LARGE = ["scipy", "SimpleITK", "cv2", "torch", "trimesh", "openvino", "skimage", "numpy", "zmq", "navnode.config"]
HELP = """
import sys
from navnode import cli
sys.argv = ["navnode", "--help"]
try:
    cli.main()
except SystemExit:
    pass
"""
PROCESS = "import navnode.commands.process"
DISPLAY = """
import navnode.commands.process, navnode.display.server
from importlib.metadata import entry_points
for page in entry_points(group="navnode.pages"):
    page.load()
"""
REQUESTS = "import navnode.bench.requests, navnode.recording.requests, navnode.simulation.requests"
OFFLINE = "import navnode.commands.offline"
NODE = "import navnode.commands.process, navnode.node.node"


def loaded(program: str) -> set[str]:
    """The modules that a Python has loaded at the end of a program."""
    end = "\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program + end], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("program", "needed", "absent"),
    [
        (HELP, {"navnode.cli"}, LARGE),
        (PROCESS, {"navnode.config"}, ["scipy", "SimpleITK", "torch", "trimesh", "openvino", "navnode.reconstruction"]),
        (
            DISPLAY,
            {"navnode.display.scene", "navnode_calibration.panel"},
            ["scipy", "SimpleITK", "torch", "trimesh", "openvino", "skimage", "navnode.reconstruction"],
        ),
        (NODE, {"navnode.registration"}, ["torch", "trimesh", "openvino", "skimage", "navnode.reconstruction"]),
        (REQUESTS, {"navnode.bench.requests"}, ["scipy", "SimpleITK", "torch", "trimesh", "openvino", "skimage"]),
        (OFFLINE, {"navnode.offline.requests"}, ["SimpleITK", "torch", "trimesh", "openvino"]),
    ],
    ids=["help", "process", "display", "node", "requests", "offline"],
)
def test_only_what_is_needed_is_loaded(program, needed, absent):
    modules = loaded(program)
    assert needed <= modules and not modules.intersection(absent)


@pytest.mark.parametrize("name", [*mounted._OWN, *mounted._OTHERS])
def test_the_list_says_of_every_command_what_its_help_begins_with(name):
    listed = cli.typer.main.get_group(cli.app).commands[name]
    command = mounted.loaded(name)
    assert listed.help and listed.help == command.help.split("\n\n")[0]
    assert (listed.hidden, listed.deprecated) == (command.hidden, command.deprecated)
