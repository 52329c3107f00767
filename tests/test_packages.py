"""The packages as users get them: built from the source package, tried in empty environments."""

import json
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTED = ROOT / "packages" / "projector" / "CMakeLists.txt"
PROJECT = """
import json, sys
import numpy as np
from navnode.projector import Projector
from navnode.types import CArm, Volume
import navnode.projector
hu = np.full((64, 64, 64), -1000.0, np.float32)
hu[20:44, 20:44, 20:44] = 0.0
at = np.eye(4)
at[:3, 3] = 63.0, 63.0, -600.0
carm = CArm(65, 65, (3.0, 3.0), 1020.0, (32.0, 32.0))
image = Projector(Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0]))).render(carm, at)
print(json.dumps({"through": float(image[32, 32]), "beside": float(image[0, 0]), "file": navnode.projector.__file__}))
"""
"""A cube of water, 48 mm wide, seen along an axis of the volume."""


def run(*command: str | Path, cwd: Path | None = None, fails: bool = False) -> str:
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=900)
    assert (ran.returncode != 0) == fails, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout


def environment(folder: Path) -> Path:
    """An empty environment's folder of programs."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Package -> its wheel; navnode's is built from what the source package holds."""
    pytest.importorskip("build", reason="the extra 'dev' is not installed")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT / "packages" / "projector")
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def test_what_the_projector_loads_is_in_its_wheel():
    text = LISTED.read_text()
    installed = {path.removesuffix(".py") for path in re.findall(r"navnode/([\w/]+\.py)\b", text)}
    modules = re.search(r"foreach\(module (.*)\)", text)[1].split()
    installed |= {f"projector/{module}" for module in modules}
    names = {re.sub("(.__init__|^__init__)$", "", path.replace("/", ".")) for path in installed}
    program = "import json, sys, navnode.projector; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(sys.executable, "-c", program))
    needed = {name.removeprefix("navnode").removeprefix(".") for name in loaded if name.split(".")[0] == "navnode"}
    assert {"projector", "types", "native"} <= needed <= names
    assert not {"scipy", "cv2", "msgspec", "SimpleITK"} & set(loaded)


@pytest.mark.slow
def test_the_wheel_holds_no_calibration_of_its_own_name(wheels):
    names = zipfile.ZipFile(wheels["navnode"]).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"navnode", "navnode_calibration"}
    assert {"navnode_calibration/pivot.py", "navnode_calibration/static/panel.html"} <= set(names)
    assert "-py3-none-" in wheels["navnode"].name


@pytest.mark.slow
def test_from_a_wheel_to_a_registered_xray(wheels, tmp_path):
    programs = environment(tmp_path / "venv")
    run(programs / "pip", "install", "--quiet", wheels["navnode"])
    run(programs / "navnode", "sample", tmp_path / "tryout", "--size", "128")
    example = ["register", "--volume", "ct.nii.gz", "--views", "views.json", "--json"]
    answer = json.loads(run(programs / "navnode", *example, cwd=tmp_path / "tryout"))
    assert [view["status"] for view in answer["views"]] == ["VALID"] * len(answer["views"])
    assert answer["views"]
    assert "pivot" in run(programs / "navnode", "calibrate", "--help")
    run(programs / "python", "-c", "import calibration", cwd=tmp_path, fails=True)


@pytest.mark.slow
def test_the_projector_by_itself_and_beside_the_whole(wheels, tmp_path):
    programs = environment(tmp_path / "venv")

    def projected() -> str:
        found = json.loads(run(programs / "python", "-c", PROJECT, cwd=tmp_path))
        assert found["through"] == pytest.approx(48 * 0.02, rel=1e-3) and found["beside"] == 0
        return str(found["file"])

    run(programs / "pip", "install", "--quiet", wheels["navnode_projector"])
    packages = {each["name"] for each in json.loads(run(programs / "pip", "list", "--format", "json"))}
    assert packages - {"pip", "setuptools"} == {"navnode-projector", "numpy"}
    assert "_navnode_projector" in projected()
    run(programs / "pip", "install", "--quiet", "--no-deps", wheels["navnode"])
    assert "_navnode_projector" not in projected()
    run(programs / "pip", "uninstall", "--quiet", "--yes", "navnode-projector")
    assert "_navnode_projector" not in projected()
    run(programs / "pip", "install", "--quiet", wheels["navnode_projector"])
    run(programs / "pip", "uninstall", "--quiet", "--yes", "navnode")
    assert "_navnode_projector" in projected()
