"""What is said of a session."""

from __future__ import annotations

import json

import pytest

from navnode.recording import Recording
from tests.invoke import call


def test_what_is_in_a_session_is_told(recorded, tmp_path):
    page, trace = tmp_path / "r.html", tmp_path / "t.json"
    code, told, error = call("inspect", recorded, "--report", page, "--trace", trace, "--json")
    assert code == 0 and told["whole"] and told["lost"] == 0, error
    topics = [entry.topic for entry in Recording(recorded)]
    images, poses = (topics.count(topic) for topic in ("in/IMAGE/XRay", "in/TRANSFORM/DrillToTracker"))
    assert told["topics"]["in/IMAGE/XRay"]["messages"] == images > 20
    assert told["topics"]["in/TRANSFORM/DrillToTracker"]["messages"] == poses > 200
    assert told["topics"]["in/TRANSFORM/DrillToTracker"]["hz"] / told["topics"]["in/IMAGE/XRay"]["hz"] == pytest.approx(
        poses / images, rel=0.1
    )
    late = told["latency_ms"]
    assert (
        late["frame"]["p50"] <= late["frame"]["p99"] and late["frame: registration"]["p50"] < late["frame"]["p50"] + 1
    )
    assert sum(told["validity"]["registration"].values()) == pytest.approx(1, abs=0.01)
    assert told["versions"]["projector"] and told["dose"]["frames"] > 20
    text = page.read_text()
    assert all(word in text for word in ("Validity", "<svg", "registration: ", "X-rays"))
    events = json.loads(trace.read_text())["traceEvents"]
    stages = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert stages >= {"taken in", "waiting", "registration", "handed over", "sent"}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
