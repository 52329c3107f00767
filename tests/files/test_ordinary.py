"""Devices and pipes where a file is expected: refused at once, not read for ever."""

from __future__ import annotations

import os
import socket

import pytest

from calibration import inputs
from calibration.exchange import opencv
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.meshes import read_mesh
from navnode.files.ordinary import refuse_special
from navnode.files.views import read_views
from navnode.files.volumes import read_volume
from tests.invoke import call


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    return path


def test_what_is_no_file_is_refused(pipe, tmp_path):
    bound = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bound))
        link = tmp_path / "link"
        link.symlink_to("/dev/zero")
        for path in (pipe, bound, link, "/dev/zero"):
            with pytest.raises(ConfigError, match="not a file"):
                refuse_special(path)
    for path in (tmp_path, tmp_path / "none", __file__):
        refuse_special(path)
    with pytest.raises(ConfigError, match="begins with"):
        refuse_special("-o.json")


@pytest.mark.parametrize("read", [read_views, read_volume, artifacts.content])
def test_readers_refuse_it(read, pipe):
    with pytest.raises((ConfigError, CalibrationError), match="not a file"):
        read(pipe)


def test_readers_of_meshes_and_calibrations_refuse_it(tmp_path):
    path = tmp_path / "bone.stl"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a file"):
        read_mesh(path)
    with pytest.raises(ConfigError, match="not a file"):
        inputs.Files().read(path)


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "pivot", "/dev/zero", "--out", "p.json"),
        ("reconstruct", "--views", "/dev/zero", "--out", "v.nii.gz"),
        ("register", "--volume", "/dev/zero", "--views", "v.json"),
        ("inspect", "/dev/zero"),
    ],
)
def test_commands_refuse_devices(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(*command)
    assert code == 2 and "not a file" in error


@pytest.mark.parametrize("nested", ["[" * 50_000, "{a: " * 20_000, "\n".join(" " * n + "a:" for n in range(5_000))])
def test_a_camera_that_would_overflow_the_parser_is_refused(tmp_path, nested):
    path = tmp_path / "camera.yml"
    path.write_text(f"%YAML:1.0\n---\nimage_width: {nested}\n")
    with pytest.raises(ConfigError, match=r"nested too deeply|too large"):
        opencv.read(path)
