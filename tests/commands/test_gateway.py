"""``navnode gateway``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

import pytest

from navnode import config
from navnode.errors import ConfigError
from navnode.gateways.requests import DicomGatewayRequest, VideoGatewayRequest
from tests.config.test_config import MINIMAL
from tests.conftest import find_free_port
from tests.gateways.test_video import numbered, written


def test_options_are_keys_of_a_configuration():
    dicom = DicomGatewayRequest(callers=("A", "B"), listen_port=104, delay_ms=20.0).source()
    assert dicom.callers == ("A", "B") and dicom.listen_port == 104 and dicom.delay_ms == 20 and dicom.store == ""
    video = VideoGatewayRequest(input="0", region="1,2,30,40", gamma=2.2, mirrored=True, standard="pal").source()
    assert video.region == (1, 2, 30, 40) and video.gamma == 2.2 and video.mirrored and video.standard == "pal"
    assert video.device == "0"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (VideoGatewayRequest(input="0", region="1,2,x,4"), "--region"),
        (VideoGatewayRequest(input="0", gamma=0.0), "gamma"),
        (VideoGatewayRequest(input="0", standard="secam"), "standard"),
        (DicomGatewayRequest(listen="0.0.0.0"), "insecure"),
        (DicomGatewayRequest(tls_key="x"), "all three"),
    ],
)
def test_what_is_wrong_is_named(request_, message):
    with pytest.raises(ConfigError, match=message):
        request_.source()


def test_a_region_of_ones_own_is_not_bound_to_the_presets_picture(tmp_path):
    (tmp_path / "carm.toml").write_text("picture_px = [720, 576]\nregion = [140, 20, 560, 536]\n")
    given = VideoGatewayRequest(input="0", preset=tmp_path / "carm.toml").source()
    assert given.picture_px == (720, 576) and given.region == (140, 20, 560, 536)
    own = VideoGatewayRequest(input="0", preset=tmp_path / "carm.toml", region="0,0,1000,1000").source()
    assert own.picture_px is None and own.region == (0, 0, 1000, 1000)
    path = tmp_path / "node.toml"
    path.write_text(
        MINIMAL + "[[sources]]\ntype = 'video'\ndevice = '0'\npreset = 'carm.toml'\nregion = [0, 0, 99, 99]\n"
    )
    (source,) = config.load(path).sources
    assert source.picture_px is None and source.region == (0, 0, 99, 99)


def test_a_preset_gives_what_a_source_does_not_say_itself(tmp_path):
    (tmp_path / "carm.toml").write_text("gamma = 2.2\nregion = [4, 4, 40, 40]\nblack = 16\n")
    video = VideoGatewayRequest(input="0", preset=tmp_path / "carm.toml", gamma=1.8).source()
    assert video.gamma == 1.8 and video.region == (4, 4, 40, 40)
    path = tmp_path / "node.toml"
    path.write_text(MINIMAL + "[[sources]]\ntype = 'video'\ndevice = '0'\npreset = 'carm.toml'\nblack = 10\n")
    (source,) = config.load(path).sources
    assert (source.gamma, source.black, source.region) == (2.2, 10, (4, 4, 40, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gama = 2.2", r"carm.toml: unknown key 'gama' \(did you mean 'gamma'\?\)"),
        ("device = '0'", "device is not a C-arm's"),
        ("gamma = nan", "finite"),
        ("gamma = ", "carm.toml"),
    ],
)
def test_a_wrong_preset_is_named(tmp_path, text, message):
    (tmp_path / "carm.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.preset(tmp_path / "carm.toml")
    with pytest.raises(ConfigError, match="no such"):
        config.preset(tmp_path / "other.toml")


def test_a_gateway_by_hand_reports_what_it_served(tmp_path):
    path = written(tmp_path / "x.avi", [numbered(n % 25) for n in range(100)])
    command = [sys.executable, "-m", "navnode", "gateway", "video", "--input", str(path), "--json", "--seconds", "2"]
    done = subprocess.run([*command, "--port", str(find_free_port())], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["source"] == "video" and report["pictures"] > 20 and not report["problem"]
    assert "OpenIGTLink on port" in done.stderr


def test_a_gateway_that_could_not_open_its_video_says_so(tmp_path):
    command = [sys.executable, "-m", "navnode", "gateway", "video", "--input", str(tmp_path / "none.avi"), "--json"]
    command += ["--seconds", "2", "--port", str(find_free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert report["pictures"] == 0 and "none.avi" in report["problem"]


def test_a_gateway_that_is_ended_by_hand_reports_all_the_same(tmp_path):
    path = written(tmp_path / "x.avi", [numbered(n % 25) for n in range(100)])
    command = [sys.executable, "-m", "navnode", "gateway", "video", "--input", str(path), "--json"]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heeds}
    with subprocess.Popen([*command, "--port", str(find_free_port())], **pipes) as running:
        try:
            assert "OpenIGTLink on port" in running.stderr.readline()
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    assert json.loads(said)["source"] == "video"
    assert running.returncode == 0
