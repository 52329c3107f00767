"""What is found of a C-arm's display, on displays whose truth is known."""

from __future__ import annotations

import json
import tomllib

import cv2
import numpy as np
import pytest

from navnode import config
from navnode.config import VideoSource
from navnode.errors import ComputeError, ConfigError, NavError
from navnode.gateways.presets import set_up, toml_of
from navnode.gateways.requests import CArmSetupRequest
from navnode.gateways.setup import Seen, find, oriented_like, watch
from tests.conftest import slow
from tests.gateways.displays import Display
from tests.gateways.served import free_port, gateway
from tests.gateways.test_video import played, written

SECONDS = 10.0


def seen_of(display: Display) -> Seen:
    seen, last = Seen([], [], []), None
    for n, picture in enumerate(display.pictures(SECONDS)):
        seen.coarse.append(picture[::8, ::8].copy())
        seen.times_s.append(n / 25)
        if last is not None and n / 25 >= len(seen.pairs) * SECONDS / 96:
            seen.pairs.append((last, picture))
        last = picture
    return seen


@pytest.mark.parametrize("gamma", [1.0, slow(1.6), slow(2.2), 2.8])
@pytest.mark.long
def test_field_curve_holds_and_steps_are_found(gamma):
    display = Display(gamma=gamma)
    found = find(seen_of(display))
    assert np.abs(np.subtract(found.region, display.region)).max() <= 3
    x, y, radius = found.field_px
    assert np.hypot(x + found.region[0] - 370, y + found.region[1] - 290) < 1.5 and radius == pytest.approx(250, abs=2)
    assert found.gamma == pytest.approx(gamma, abs=0.15) and not found.inverted, "or unknown"
    assert (found.black, found.white) == (0, 255)
    assert found.held_noise == pytest.approx(0.5, abs=0.1) and found.held_share == pytest.approx(2 / 3, abs=0.02)
    assert found.exposures_per_s == pytest.approx(25 / 3, rel=0.03)
    assert found.steps == 2 and not found.interlaced


@pytest.mark.parametrize("noise", [slow(0.0), 1.0])
@pytest.mark.long
def test_holds_are_found_with_any_noise_of_capture_and_none_where_there_are_none(noise):
    held = find(seen_of(Display(capture_noise=noise)))
    assert held.held_noise == pytest.approx(noise, abs=0.15) and held.held_share == pytest.approx(2 / 3, abs=0.02)
    never = find(seen_of(Display(capture_noise=noise, repeats=1)))
    assert never.held_noise is None and never.held_share == 0 and "held_noise" not in never.preset()
    assert any("no exposure was held" in line for line in never.lines)


@pytest.mark.parametrize(("steps", "gained"), [(1, False), slow(1, True), slow(3, True)])
@pytest.mark.long
def test_exposures_of_another_dose_are_not_taken_for_held_ones(steps, gained):
    found = find(seen_of(Display(repeats=1, steps=steps, step_share=0.75, gained=gained)))
    assert found.held_noise is None and found.held_share == 0
    assert found.gamma is None or found.gamma == pytest.approx(2.2, abs=0.3)
    assert not found.inverted


@pytest.mark.long
def test_text_is_masked_and_metal_is_not():
    display = Display(gamma=1.0)
    found = find(seen_of(display))
    covered = np.zeros((display.region[3], display.region[2]), bool)
    for x, y, w, h in found.masks:
        covered[y : y + h, x : x + w] = True
    text = np.zeros(covered.shape, np.uint8)
    cv2.putText(text, "L 12:30", (text.shape[1] // 2 - 60, text.shape[0] // 5), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    assert covered[text > 0].mean() > 0.95 and covered.mean() < 0.03
    assert find(seen_of(Display(text_inside=False))).masks == ()


@pytest.mark.long
def test_a_rectangle_is_a_field_without_a_circle():
    display = Display(field=None)
    found = find(seen_of(display))
    assert found.field_px is None and np.abs(np.subtract(found.region, display.rectangle)).max() <= 3


def test_levels_of_video_are_found():
    found = find(seen_of(Display(black=16, white=235)))
    assert (found.black, found.white) == (16, 235) and found.gamma == pytest.approx(2.2, abs=0.15)


@pytest.mark.long
def test_lines_of_two_moments_are_found():
    found = find(seen_of(Display(interlaced=True)))
    assert found.interlaced and found.preset()["interlace"] == "bob"


@pytest.mark.long
def test_an_inverted_display_is_found_by_its_noise_or_by_who_has_seen_it():
    found = find(seen_of(Display(inverted=True, gamma=1.2)))
    assert found.inverted and found.gamma == pytest.approx(1.2, abs=0.15) and found.preset()["inverted"]
    seen = seen_of(Display(inverted=True, gamma=2.2))
    assert any("not clear" in line for line in find(seen).lines)
    told = find(seen, True)
    assert told.gamma == pytest.approx(2.2, abs=0.25) and told.inverted


@pytest.mark.parametrize(("turned_deg", "mirrored"), [(0, False), slow(90, False), slow(0, True), (270, True)])
@pytest.mark.long
def test_the_orientation_is_found_from_an_xray_of_the_same_scene(turned_deg, mirrored):
    display = Display(turned_deg=turned_deg, mirrored=mirrored, text_inside=False)
    seen = seen_of(display)
    counts = np.rint(30000 * display.counts(SECONDS / 2)).astype(np.uint16)
    found = oriented_like(find(seen), seen, counts)
    shown = np.rot90(counts[:, ::-1] if mirrored else counts, turned_deg // 90)
    undone = np.rot90(shown, -(found[0] // 90))
    undone = undone[:, ::-1] if found[1] else undone
    assert np.array_equal(undone, counts)


@pytest.mark.long
def test_an_xray_of_something_else_gives_no_orientation():
    seen = seen_of(Display(text_inside=False))
    noise = np.random.default_rng(0).integers(100, 4000, (300, 300)).astype(np.uint16)
    assert oriented_like(find(seen), seen, noise) is None


def test_a_screen_without_xrays_is_refused(tmp_path):
    still = np.random.default_rng(0).integers(0, 255, (288, 360), np.uint8)
    seen = Seen([(still, still)] * 10, [still[::8, ::8]] * 20, [n / 25 for n in range(20)])
    with pytest.raises(ComputeError, match="nothing changes"):
        find(seen)
    with pytest.raises(NavError, match="cannot be opened"):
        watch(VideoSource(device=str(tmp_path / "none.avi")), 2.0)
    few = written(tmp_path / "few.avi", [still] * 3)
    with pytest.raises(NavError, match="too few"):
        watch(VideoSource(device=str(few)), 2.0)


@pytest.mark.long
def test_a_preset_from_a_video_makes_counts_of_it(tmp_path):
    """From a stranger's display to counts that follow the radiation: watch, write, serve."""
    display = Display(size=(512, 400), field=(256.0, 200.0, 160.0), gamma=2.2)
    video = written(tmp_path / "run.avi", list(display.pictures(8.0)))
    request = CArmSetupRequest(input=str(video), out=tmp_path / "carm.toml", picture=tmp_path / "carm.png", seconds=8.0)
    shares = []
    findings = set_up(request, shares.append)
    assert 0.9 < max(shares) <= 1 and cv2.imread(str(tmp_path / "carm.png")).shape == (400, 512, 3)
    assert tomllib.loads(toml_of(findings)) == config.preset(tmp_path / "carm.toml")
    with pytest.raises(ConfigError, match="exists already"):
        set_up(request, shares.append)
    source = config.convert(
        {**config.preset(tmp_path / "carm.toml"), "type": "video", "device": str(video), "port": free_port()},
        VideoSource,
        "test",
    )
    with gateway(source) as heard:
        images = played(heard)
    assert abs(len(images) - 8 * 25 / 3) <= 2, "one picture per exposure"
    counts = images[30].voxels[0].astype(float)
    truth = cv2.resize(display.counts(30 * 3 / 25), counts.shape[::-1])
    v, u = np.mgrid[: counts.shape[0], : counts.shape[1]]
    disc = np.hypot(u - counts.shape[1] / 2, v - counts.shape[0] / 2) < 140
    disc &= counts > 0
    smooth = cv2.blur(counts, (9, 9))
    slope = np.polyfit(np.log(truth[disc]), np.log(smooth[disc]), 1)[0]
    assert slope == pytest.approx(1, abs=0.1), "counts are proportional to radiation"


def test_the_command_reports_as_json(tmp_path):
    import subprocess
    import sys

    display = Display(size=(512, 400), field=(256.0, 200.0, 160.0))
    video = written(tmp_path / "run.avi", list(display.pictures(5.0)))
    command = [
        sys.executable,
        "-m",
        "navnode",
        "carm",
        "setup",
        "--input",
        str(video),
        "--out",
        str(tmp_path / "c.toml"),
    ]
    done = subprocess.run([*command, "--seconds", "5", "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["size_px"] == [512, 400] and report["field_px"][2] == pytest.approx(160, abs=2)
    assert config.preset(tmp_path / "c.toml")["gamma"] == pytest.approx(2.2, abs=0.3)


@pytest.mark.parametrize("missing", ["out", "picture"])
def test_a_folder_that_is_not_there_is_named_before_the_video_is_watched(tmp_path, missing):
    paths = {"out": tmp_path / "carm.toml", "picture": tmp_path / "carm.png"}
    paths[missing] = tmp_path / "nowhere" / paths[missing].name
    with pytest.raises(ConfigError, match="its folder does not exist"):
        set_up(CArmSetupRequest(input=str(tmp_path / "no.avi"), **paths), lambda share: None)
    assert not list(tmp_path.iterdir())
