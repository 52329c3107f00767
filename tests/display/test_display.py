"""What the page is told, and the web server's manners; the page itself is looked at in tests/node/live/test_page.py."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
import time

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request

from navnode import geometry as g
from navnode.config import DisplaySection
from navnode.display import metrics, uploads
from navnode.display.orientation import letters, view_name
from navnode.display.scene import NODE_SILENT_NS, TOOL_SILENT_NS, Scene, blob, mesh_blob, vertex_normals, volume_blob
from navnode.display.server import Display
from navnode.display.web import refuse_other_origins
from navnode.errors import ConfigError
from navnode.files.plans import import_plans, write_plans
from navnode.igtl import Server
from navnode.simulation.scenario import Scenario, carm_of_size
from navnode.types import (
    Frame,
    LatencyFigures,
    Mesh,
    NodeState,
    Plan,
    RecordingState,
    RegisteredFrame,
    Status,
    ToolPose,
    Validity,
    Volume,
    VolumeUpdate,
)
from tests.loop.theatre import configuration

NOW = 5_000_000_000
VALID = Validity(Status.VALID)
CARM = carm_of_size(256)
ROOM = Scenario(isocentre_mm=np.array([0.0, -40.0, 10.0]), targets_mm=np.zeros((1, 3)))


def state(status: Status = Status.VALID, epoch: int = 1, volume: str = "ct", volumes: int = 1) -> NodeState:
    return NodeState(
        Validity(status),
        {},
        {"x": ""},
        "SART",
        True,
        volume,
        10,
        9,
        14.0,
        volumes,
        {"xray": 0},
        {},
        (),
        NOW,
        epoch,
        "Drill",
    )


def frame(t_s: float, station: int | None = 0) -> RegisteredFrame:
    counts = np.random.default_rng(0).poisson(800, (256, 256)).astype(np.uint16)
    return RegisteredFrame(
        Frame(counts, NOW, NOW, 1), CARM, ROOM.volume_from_carm(t_s), VALID, 0.02, 0.99, station, NOW
    )


def shown_scene() -> Scene:
    shown = Scene()
    shown.on_output(state(), NOW)
    shown.on_output(frame(0.0), NOW)
    shown.on_output(ToolPose("Drill", ROOM.volume_from_tool(2.0), VALID, NOW), NOW)
    return shown


def test_the_tool_is_drawn_where_its_rays_land():
    told = shown_scene().describe(NOW)
    (tool,), (view,) = told["tools"], told["views"]
    tip = ROOM.volume_from_tool(2.0)[:3, 3]
    expected = g.project(CARM, g.inverse(ROOM.volume_from_carm(0.0)), tip)
    *shown, depth = np.reshape(view["pixels_from_volume"], (3, 4)) @ [*tool["tip_mm"], 1]
    assert np.allclose(np.array(shown) / depth, expected, atol=0.01)
    assert np.allclose(tool["tip_mm"], tip, atol=1e-3)


def test_an_invalid_tool_has_no_place():
    shown = shown_scene()
    shown.on_output(ToolPose("Drill", None, Validity(Status.INVALID, "not seen"), 0), NOW)
    (tool,) = shown.describe(NOW)["tools"]
    assert "tip_mm" not in tool
    assert tool["validity"] == {"status": "INVALID", "reason": "not seen"}


def test_a_tool_that_is_not_heard_of_disappears():
    shown = shown_scene()
    later = NOW + NODE_SILENT_NS // 2
    shown.on_output(state(), later)
    (tool,) = shown.describe(later)["tools"]
    assert "tip_mm" not in tool and tool["validity"]["status"] == "INVALID"


def test_what_waited_is_as_old_as_when_it_was_sent():
    """A server that stood still finds old values, and the newest were dropped."""
    shown, sent = shown_scene(), NOW - 2 * TOOL_SILENT_NS
    shown.on_output(ToolPose("Drill", ROOM.volume_from_tool(2.0), VALID, NOW), sent)
    (tool,) = shown.describe(NOW)["tools"]
    assert "tip_mm" not in tool and tool["validity"]["status"] == "INVALID"
    shown.on_output(state(), NOW - NODE_SILENT_NS - 1)
    assert shown.describe(NOW)["silent"]


def test_a_silent_node_takes_everything_away():
    told = shown_scene().describe(NOW + NODE_SILENT_NS + 1)
    assert told["silent"] and told["registration"]["status"] == "INVALID"
    assert "tip_mm" not in told["tools"][0] and not told["views"][0]["live"]


def test_views_are_live_or_held_with_their_age():
    shown = shown_scene()
    assert shown.describe(NOW)["views"][0]["live"]
    shown.on_output(frame(9.0, station=1), NOW + 100_000_000)
    told = shown.describe(NOW + 200_000_000)["views"]
    assert [view["live"] for view in told] == [False, True]
    assert [view["age_s"] for view in told] == [0.2, 0.1]
    assert [view["name"] for view in told] == ["AP", "lateral, cranial 6°"]


def test_the_age_of_a_view_begins_with_its_exposure():
    shown = shown_scene()
    old = dataclasses.replace(frame(0.0), validity=Validity(Status.VALID, age_ns=1_400_000_000))
    shown.on_output(old, NOW)
    (told,) = shown.describe(NOW)["views"]
    assert told["age_s"] == 1.4 and not told["live"]


def test_pictures_placed_by_a_registration_that_was_lost_are_let_go():
    shown = shown_scene()
    shown.on_output(state(epoch=2), NOW)
    assert shown.describe(NOW)["views"] == []


def test_a_volume_that_the_node_has_no_more_is_taken_back():
    display = Display(configuration(), "inproc://nobody")
    volume = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    display._on_volume(VolumeUpdate(volume, None, "navigation", VALID, "SART", 4))
    display._on_output(state(), time.monotonic_ns())
    assert "volume/navigation" in display._blobs
    display._on_output(state(volume="", volumes=0), time.monotonic_ns())
    assert not display._blobs
    ((_, gone),) = display._gone.values()
    assert unpack(gone)[0] | {"sizes": []} == {"kind": "gone", "of": "volume", "role": "navigation", "sizes": []}


@pytest.mark.parametrize(
    ("direction", "name"),
    [((0, 1, 0), "AP"), ((0, -1, 0), "PA"), ((-1, 0, 0), "lateral"), ((-1, 1, 0), "LAO 45°"), ((1, 1, 0), "RAO 45°")],
)
def test_views_are_named_as_on_a_carm(direction, name):
    volume_from_carm = np.eye(4)
    volume_from_carm[:3, 2] = np.array(direction) / np.linalg.norm(direction)
    assert view_name(volume_from_carm) == name


def test_pictures_say_which_way_the_patient_lies():
    assert letters(g.pose_at(np.zeros(3), 700.0, orbital_deg=0.0)) == ["L", "R", "S", "I"]
    assert letters(g.pose_at(np.zeros(3), 700.0, orbital_deg=90.0)) == ["P", "A", "S", "I"]
    assert letters(g.pose_at(np.zeros(3), 700.0, orbital_deg=40.0))[:2] == ["LP", "RA"]
    assert letters(g.pose_at(np.zeros(3), 700.0, orbital_deg=0.0, roll_deg=180.0)) == ["R", "L", "I", "S"]


def test_the_page_can_project_points_by_itself():
    view = shown_scene().describe(NOW)["views"][0]
    rows = np.array(view["pixels_from_volume"]).reshape(3, 4)
    points = np.random.default_rng(3).uniform(-80, 80, (20, 3))
    u, v, w = rows @ np.column_stack([points, np.ones(20)]).T
    expected = g.project(CARM, g.inverse(ROOM.volume_from_carm(0.0)), points)
    assert np.allclose(np.column_stack([u / w, v / w]), expected, atol=1e-6)


def unpack(data: bytes) -> tuple[dict, list[bytes]]:
    (length,) = struct.unpack_from("<I", data)
    head, at, parts = json.loads(data[4 : 4 + length]), 4 + length, []
    for size in head["sizes"]:
        assert at % 4 == 0
        parts.append(data[at : at + size])
        at += size + -size % 4
    assert at == len(data)
    return head, parts


def test_binary_messages_are_aligned_for_typed_arrays():
    head, parts = unpack(blob("x", {"a": "ä"}, b"12345", b"", b"1234"))
    assert head["a"] == "ä" and parts == [b"12345", b"", b"1234"]


def test_volumes_and_meshes():
    hu = np.linspace(-1200, 1500, 24, dtype=np.float32).reshape(2, 3, 4)
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.uint32))
    update = VolumeUpdate(Volume(hu, np.diag([2.0, 2, 2, 1])), mesh, "navigation", VALID, "CT", 0)
    head, (voxels,) = unpack(volume_blob(update))
    assert head["size"] == [4, 3, 2] and np.allclose(np.frombuffer(voxels, np.float16), hu.ravel(), atol=0.6)
    head, (points, normals, triangles) = unpack(mesh_blob(update, mesh))
    assert len(points) == len(normals) == 36 and np.frombuffer(triangles, np.uint32).tolist() == [0, 1, 2]
    assert np.allclose(vertex_normals(mesh), 1 / np.sqrt(3))


def serve(check) -> None:
    async def story() -> None:
        display = Display(configuration(), "ipc:///tmp/navnode-test-nothing-there")
        async with TestServer(display.application(), host="127.0.0.1") as server, aiohttp.ClientSession() as session:
            await check(session, server)

    asyncio.run(story())


def test_assets_and_their_headers():
    async def check(session, server):
        async with session.get(server.make_url("/")) as answer:
            page = await answer.text()
            assert "Not a medical device" in page and "http" not in page.replace("http-equiv", "")
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for path in ("/static/app.js", "/static/style.css", "/static/icon.svg"):
            async with session.get(server.make_url(path)) as answer:
                assert answer.status == 200
        for path in ("/static/..%2fserver.py", "/static/server.py", "/static/", "/static/none.js", "/etc/passwd"):
            async with session.get(server.make_url(path)) as answer:
                assert answer.status == 404

    serve(check)


LINE = {
    "markups": [
        {
            "type": "Line",
            "coordinateSystem": "RAS",
            "controlPoints": [
                {"label": "entry", "position": [20.0, -60.0, 10.0], "positionStatus": "defined"},
                {"label": "target", "position": [5.0, -10.0, 0.0], "positionStatus": "defined"},
            ],
        }
    ],
}


def test_plans_are_read_from_files_that_are_dropped_on_the_page():
    async def check(session, server):
        async def post(name, content, **headers):
            url = server.make_url("/plans").with_query(name=name)
            async with session.post(url, data=content, headers=headers) as answer:
                return answer.status, await answer.text()

        status, text = await post("L4 <left>.mrk.json", json.dumps(LINE))
        expected = {"name": "L4 <left>", "entry_mm": [20.0, -60.0, 10.0], "target_mm": [5.0, -10.0, 0.0]}
        assert status == 200 and json.loads(text) == {"plans": [expected]}
        own = {"schema": "navnode/plans/1", "volume": None, "plans": [expected]}
        assert json.loads((await post("plans.json", json.dumps(own)))[1]) == {"plans": [expected]}
        one_point = json.loads(json.dumps(LINE))
        del one_point["markups"][0]["controlPoints"][1]
        for name, content in (
            ("a.mrk.json", "nonsense"),
            ("a.mrk.json", json.dumps(one_point)),
            ("../../etc/a.mrk.json", "{}"),
            ("a.stl", "solid"),
            ("a.json", "[]"),
        ):
            status, text = await post(name, content)
            assert status == 422 and text.startswith(name.rsplit("/", 1)[-1] + ": ") and "/tmp" not in text, text
        assert (await post("a.mrk.json", b" " * (uploads.MOST_BYTES + 1)))[0] == 413
        assert (await post("a.mrk.json", json.dumps(LINE), Origin="http://evil.example"))[0] == 403

    serve(check)


def test_plans_of_another_volume_are_not_read(tmp_path):
    display = Display(configuration(), "inproc://nobody")
    volume = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4), "ct")
    plan = Plan("a", (0.0, 0.0, 0.0), (3.0, 3.0, 3.0))
    write_plans(tmp_path / "p.json", (plan,), "", volume)
    display._on_volume(VolumeUpdate(volume, None, "navigation", VALID, "CT", 0))
    assert import_plans(tmp_path / "p.json", display._grid).plans == (plan,)
    other = Volume(np.zeros((4, 5, 7), np.float32), np.eye(4), "other")
    display._on_volume(VolumeUpdate(other, None, "navigation", VALID, "CT", 0))
    with pytest.raises(ConfigError, match="another volume"):
        import_plans(tmp_path / "p.json", display._grid)


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_other_sites_may_not_look(headers):
    async def check(session, server):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(server.make_url("/ws"), headers=headers)

    serve(check)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("192.168.1.5:8080", True),
        ("[fe80::1]:8080", True),
        ("localhost", True),
        (f"{socket.gethostname().upper()}:8080", True),
        ("orsrv.hospital.example", True),
        ("evil.example", False),
        ("192.168.1.5.evil.example", False),
        ("orsrv.hospital.example.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_a_rebound_name_gets_nothing_where_all_of_the_network_may_look(host, allowed):
    section = DisplaySection(host="0.0.0.0", insecure=True, names=("ORsrv.hospital.example",))
    request = make_mocked_request("POST", "/command", headers={"Host": host, "Origin": f"http://{host}"})
    with contextlib.nullcontext() if allowed else pytest.raises(web.HTTPForbidden):
        refuse_other_origins(request, section)
    alone = make_mocked_request("POST", "/command", headers={"Host": "192.168.1.5:8080"})
    with pytest.raises(web.HTTPForbidden):
        refuse_other_origins(alone, DisplaySection())


def test_a_page_that_does_not_answer_is_sent_no_more():
    async def check(session, server):
        async with session.ws_connect(server.make_url("/ws")) as socket:
            got = []
            for _ in range(2):
                got.append(json.loads((await socket.receive(timeout=30)).data)["number"])
            with pytest.raises(asyncio.TimeoutError):
                await socket.receive(timeout=0.4)
            await socket.send_str(json.dumps({"ack": 1}))
            got.append(json.loads((await socket.receive(timeout=30)).data)["number"])
            assert got == [1, 2, 3]
            await socket.send_str("nonsense")
            await socket.send_str(json.dumps({"ack": 10**9}))
            assert json.loads((await socket.receive(timeout=30)).data)["silent"] is True

    serve(check)


def test_the_page_stays_on_this_machine_unless_told_otherwise():
    with pytest.raises(ValueError, match="insecure"):
        DisplaySection(host="0.0.0.0")
    with pytest.raises(ConfigError, match="insecure"):
        configuration(display={"host": "192.168.1.5"})


def test_prometheus_is_told_how_the_node_is():
    display = Display(configuration(), "ipc:///tmp/navnode-test-no-such-node")
    told = metrics.text(display._state).decode()
    assert "navnode_up 0.0" in told and "navnode_frames" not in told
    display._scene.on_output(
        dataclasses.replace(
            state(),
            dropped={"xray": 3},
            recording=RecordingState("a.mcap", failure="full"),
            sources={"pc:1": "", "pc:2": "gone"},
            latency_ms=LatencyFigures(9.0, 21.5, 30.0),
            replay=True,
        ),
        time.monotonic_ns(),
    )
    told = metrics.text(display._state).decode()
    for line in (
        "navnode_up 1.0",
        'navnode_dropped_total{topic="xray"} 3.0',
        'navnode_registration_status{status="VALID"} 1.0',
        'navnode_source_connected{source="pc:2"} 0.0',
        "navnode_recording -1.0",
        "navnode_replay 1.0",
        'navnode_latency_ms{path="frame",quantile="0.99"} 21.5',
    ):
        assert line in told.splitlines()


def test_the_page_may_record_and_nothing_else():
    asked = []

    def start(parameters):
        asked.append(parameters)
        return "recording to a.mcap"

    async def go():
        console = Server("127.0.0.1", 0, commands={"StartRecording": start, "RegistrationReject": start})
        await console.start()
        section = msgspec.structs.replace(configuration().console, port=console.port)
        display = Display(msgspec.structs.replace(configuration(), console=section), "ipc:///tmp/navnode-test-no-node")
        server = TestServer(display.application())
        await server.start_server()
        async with aiohttp.ClientSession() as session:

            async def post(content, **headers):
                kind = {"Content-Type": "application/json", **headers}
                async with session.post(server.make_url("/command"), data=content, headers=kind) as answer:
                    return answer.status, await answer.text()

            status, text = await post('{"name": "StartRecording", "parameters": {"OutputFilename": "a\\"b"}}')
            assert status == 200 and json.loads(text) == {"done": True, "text": "recording to a.mcap"}
            assert asked == [{"OutputFilename": 'a"b'}]
            assert (await post('{"name": "StopRecording"}'))[1].count('"done": false') == 1
            assert (await post('{"name": "RegistrationReject"}'))[0] == 404
            assert (await post("nonsense"))[0] == 400 and (await post('{"nom": 1}'))[0] == 400
            assert (await post('{"name": "StartRecording"}', Origin="http://elsewhere"))[0] == 403
            assert (await post('{"name": "StartRecording"}', **{"Content-Type": "text/plain"}))[0] == 415
            assert len(asked) == 1
        await server.close()
        await console.stop()

    asyncio.run(go())


def test_without_an_orientation_nothing_is_named_after_the_patients_sides():
    shown = shown_scene()
    assert shown.describe(NOW)["oriented"] and shown.describe(NOW)["views"][0]["name"] == "AP"
    shown.on_output(dataclasses.replace(state(), oriented=False), NOW)
    described = shown.describe(NOW)
    assert not described["oriented"] and described["views"][0]["name"] == "X-ray 1"
