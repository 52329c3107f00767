"""Sessions replayed: in lockstep, as consumed, against references."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from navnode.config import decode
from navnode.errors import RecordingError
from navnode.igtl import Transform, encode
from navnode.projector import native
from navnode.recording import Recording, edit
from navnode.recording import format as session_format
from navnode.recording.compare import outputs_of
from navnode.recording.container import Channel
from navnode.recording.integrity import Integrity
from navnode.recording.reader import ContainerReader
from navnode.recording.writer import ContainerWriter
from navnode.types import Volume
from tests.conftest import GOLDEN
from tests.invoke import call


def test_the_golden_session_comes_out_as_ever():
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 0, error
    assert report["mode"] == "lockstep" and report["comparison"]["compared"]["out/tool/Drill"] > 300
    assert report["status_counts"] == {"VALID": 2, "DEGRADED": 4, "INVALID": 6}, "nobody states the exposure"


@pytest.mark.long
def test_the_golden_session_comes_out_as_a_release_of_format_1_wrote_it(monkeypatch):
    """That release took every exposure for short; this one wants it stated, says more reasons, and stamps what it
    says of the patient by the tracker's clock alone. Its likeness had photons' noise in it."""
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    config = msgspec.structs.replace(config, trust=msgspec.structs.replace(config.trust, exposure_ms=5.0))
    monkeypatch.setattr("navnode.recording.replay.load_configuration", lambda path: config)
    old = GOLDEN.with_name("room.format-1.reference.mcap")
    assert Recording(old).format == 1 and Recording(GOLDEN.with_name("room.reference.mcap")).format == 2
    since = ("--ignore", "reason", "--tolerance", "source_time_ns=200000000", "--tolerance", "similarity=0.002")
    code, report, error = call("replay", GOLDEN, "--reference", old, *since, "--json")
    assert code == 0, error
    compared = report["comparison"]["compared"]
    assert compared["out/state"] == 21 and report["comparison"]["same"]
    assert report["outputs"] == sum(compared.values()) + 1, "the CT, which went past the loop then"
    _, changed, _ = call("replay", GOLDEN, "--reference", old, *since, "--tolerance", "xray_age_s=0", "--json")
    states = [json.loads(each.data) for each in outputs_of(Recording(old)) if each.topic == "out/state"]
    assert changed["comparison"]["same"] and all("extra" not in state for state in states)
    assert any(state["target_sigma_mm"] for state in states) and states[0]["volume_times"] is None


@pytest.mark.long
def test_the_golden_session_comes_out_the_same_on_plainer_processors(monkeypatch):
    init = native.Projector.__init__

    def plainer(self, *arguments, **options):
        init(self, *arguments, **{**options, "instruction_set": "portable"})

    monkeypatch.setattr(native.Projector, "__init__", plainer)
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 0, (error, report["comparison"])


def test_a_change_is_found_and_shown_with_its_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    changed = msgspec.structs.replace(
        changed, registration=msgspec.structs.replace(changed.registration, confirm_frames=7)
    )
    monkeypatch.setattr("navnode.recording.replay.load_configuration", lambda path: changed)
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 1 and "differs from the reference; first at step" in error
    first = report["comparison"]["first"]
    assert first["topic"].startswith("out/") and first["what"] and report["comparison"]["different"]
    assert (tmp_path / report["picture"]).stat().st_size > 1000


@pytest.mark.long
def test_lockstep_is_the_same_in_another_process_and_after_recovery(recorded, tmp_path):
    _, one, _ = call("replay", recorded, "--lockstep", "--json")
    other = subprocess.run(
        [sys.executable, "-m", "navnode", "replay", str(recorded), "--lockstep", "--threads", "1", "--json"],
        check=True,
        capture_output=True,
    )
    assert json.loads(other.stdout)["digest"] == one["digest"] and one["messages"] > 500 and one["frames"] > 20
    whole = tmp_path / "whole.mcap"
    code, kept, _ = call("recover", recorded, "--out", whole, "--json")
    assert code == 0 and kept["lost_bytes"] == 0
    assert call("replay", whole, "--lockstep", "--json")[1]["digest"] == one["digest"]
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(recorded.read_bytes()[: recorded.stat().st_size * 2 // 3])
    code, half, _ = call("replay", torn, "--lockstep", "--json")
    assert code == 1 and "torn" in half["notes"][0] and 0 < half["frames"] < one["frames"]
    code, kept, _ = call("recover", torn, "--out", tmp_path / "half.mcap", "--json")
    assert code == 0 and 0 < kept["lost_bytes"] <= max(chunk.length for chunk in ContainerReader(recorded).chunks)
    assert call("replay", tmp_path / "half.mcap", "--lockstep", "--json")[1]["digest"] == half["digest"]


@pytest.mark.long
def test_as_consumed_repeats_what_the_node_did_bit_by_bit(recorded):
    code, report, error = call("replay", recorded, "--reference", recorded, "--exact", "--json")
    assert code == 0, error
    assert report["mode"] == "as-consumed" and report["comparison"]["same"] and report["volumes"] >= 0
    assert set(report["comparison"]["compared"]) >= {"out/frame", "out/patient", "out/state", "out/tool/Drill"}


@pytest.mark.long
def test_outputs_of_a_replay_are_a_reference_for_later(recorded, tmp_path):
    out = tmp_path / "out.mcap"
    assert call("replay", recorded, "--lockstep", "--out", out, "--json")[0] == 0
    kept = Recording(out)
    assert kept.metadata["replay"] == "lockstep" and kept.judged().integrity is Integrity.WHOLE
    code, report, error = call("replay", recorded, "--reference", out, "--exact", "--json")
    assert code == 0 and report["mode"] == "lockstep" and report["comparison"]["same"], error
    code, _, error = call("replay", recorded, "--lockstep", "--out", out, "--json")
    assert code == 2 and "exists already" in error
    code, _, error = call("replay", recorded, "--update-reference", " ")
    assert code == 2 and "reason" in error
    code, _, error = call("replay", recorded, "--check")
    assert code == 2 and "there is no reference" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lockstep", "--as-consumed"), "one of --lockstep"),
        (("--lockstep", "--start", "3"), "--lockstep replays"),
        (("--rate", "0"), "rate"),
        (("--lockstep", "--tolerance", "x"), "FIELD=VALUE"),
        (("--serve", "nowhere"), "--serve"),
        (("--check", "--reference", GOLDEN), "not both"),
    ],
)
def test_options_that_contradict_are_named(options, said):
    code, _, error = call("replay", GOLDEN, *options)
    assert code == 2 and said in error


@pytest.mark.long
def test_what_a_session_lacks_is_named(tmp_path, recorded):
    bare, other = tmp_path / "bare.mcap", tmp_path / "other.mcap"
    with bare.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        pose = encode(Transform(device="DrillToTracker", timestamp_ns=5, matrix=np.eye(4)))
        writer.add(Channel("in/TRANSFORM/DrillToTracker", "openigtlink"), (pose,), 5, 5, 1)
        writer.finish()
    code, _, error = call("replay", bare, "--lockstep")
    assert code == 2 and "holds no configuration; give --config" in error
    code, _, error = call("replay", GOLDEN, "--as-consumed")
    assert code == 1 and "holds no steps" in error
    code, _, error = call("replay", GOLDEN, "--lockstep", "--ct", tmp_path / "none.nii.gz")
    assert code == 2 and "give it with --ct" in error
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    calibration = msgspec.structs.replace(config.calibration, carm="/anywhere/carm.json")
    with other.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1"})
        changed = msgspec.structs.replace(config, calibration=calibration)
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(changed), "application/json", 0)
        writer.add(Channel("in/TRANSFORM/DrillToTracker", "openigtlink"), (pose,), 5, 5, 1)
        writer.finish()
    code, _, error = call("replay", other, "--lockstep")
    assert code == 1 and "the calibration carm (carm.json) is not in the session" in error
    entry = next(e for e in Recording(recorded).entries() if e.topic == "node/ct")
    assert entry.content["sha256"]
    with pytest.raises(RecordingError, match="another CT"):
        list(replayed_with_another_ct(recorded))


def replayed_with_another_ct(path):
    from navnode.recording.regression import Replay, ReplaySetup, attachments_folder, configuration

    recording = Recording(path)
    with attachments_folder() as folder:
        config = configuration(recording, None, folder)
        other = Volume(np.full((20, 20, 20), -1000, np.float32), np.eye(4), "other")
        other.voxels[5:15, 5:15, 5:15] = 800
        yield from Replay(recording, ReplaySetup(config, other)).lockstep()


def test_a_clock_that_jumps_ends_nothing(tmp_path, recorded):
    jumped = tmp_path / "jumped.mcap"
    with edit.new_session(jumped) as writer:
        edit._copy_about(ContainerReader(recorded), writer)
        for n, entry in enumerate(Recording(recorded).raw()):
            later = 3_600_000_000_000 if 1000 < n < 2000 else 0
            writer.add(entry.channel, (entry.data,), entry.log_time_ns + later, entry.publish_time_ns, entry.sequence)
    code, report, error = call("replay", jumped, "--lockstep", "--json")
    assert code == 0 and report["clock_jumps"] == 2 and "jumped by +36" in report["notes"][0], error
    assert report["frames"] > 10
    assert call("inspect", jumped, "--json")[1]["clock_jumps"] == 2
