"""A session as a scene of 3D Slicer: all that it names is there, and lies where it was."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import nrrd
import numpy as np
import pytest

from navnode import geometry as g
from navnode.files.meshes import read_mesh
from navnode.igtl import Transform
from navnode.recording import Recording, sequences
from tests.invoke import call

CARM_SIZE = 256


@pytest.fixture(scope="module")
def scene(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("scene") / "deep" / "room.mrml"
    code, report, error = call("export", recorded, "--out", out, "--json")
    assert code == 0, error
    return out, ET.parse(out).getroot(), report


def references(node):
    return dict(part.split(":") for part in node.get("references", "").split(";") if part)


def test_every_reference_and_every_file_is_there(scene):
    out, root, report = scene
    nodes = {node.get("id"): node for node in root}
    assert len(nodes) == len(root)
    for node in root:
        assert set(references(node).values()) <= set(nodes), node.get("id")
        if (name := node.get("fileName")) is not None:
            assert "/" not in name and (out.parent / name).stat().st_size > 500
            assert str(out.parent / name) in report["out"]
    assert {path.name for path in out.parent.iterdir()} == {path.rpartition("/")[2] for path in report["out"]}
    for node in root.iter("Sequence"):
        stored = nodes[references(node)["storage"]]
        kind = {"VolumeSequenceStorage": "ScalarVolume", "LinearTransformSequenceStorage": "LinearTransform"}[
            stored.tag
        ]
        assert node.get("attributes") == f"DataNodeClassName:vtkMRML{kind}Node"


def test_the_browser_plays_all_sequences_with_the_x_rays(scene):
    _, root, _ = scene
    nodes = {node.get("id"): node for node in root}
    (browser,) = root.iter("SequenceBrowser")
    roles, posts = references(browser), browser.get("virtualNodePostfixes").split()
    shown = [nodes[roles[f"dataNodeRef{post}"]].get("name") for post in posts]
    played = [nodes[roles[f"sequenceNodeRef{post}"]].get("name") for post in posts]
    assert shown[0] == "XRay" and set(shown) == {"XRay", "CArmToVolume", "DrillToVolume"}
    assert played == [f"{name} sequence" for name in shown]
    assert len(roles) == 2 * len(posts) and all(browser.get(f"SynchronizationPropertiesMap{post}") for post in posts)


def test_what_is_shown_lies_where_it_was(scene, recorded):
    out, root, _ = scene
    data, header = nrrd.read(str(out.parent / "room-XRay.seq.nrrd"))
    times_s = np.array(header["axis 3 index values"].split(), float)
    assert (
        data.shape == (CARM_SIZE, CARM_SIZE, 1, len(times_s)) and data.std() > 100 and (np.diff(times_s) > 1e-3).all()
    )
    carms = sequences.read(out.parent / "room-CArmToVolume.seq.mha")
    drills = sequences.read(out.parent / "room-DrillToVolume.seq.mha")
    assert np.allclose(carms.times_s, times_s) and np.allclose(drills.times_s, times_s)
    truth = {"TruthCArmToVolume": {}, "TruthDrillToVolume": {}}
    recording = Recording(recorded)
    for entry in recording.entries(lambda channel: channel.topic.startswith("in/TRANSFORM/Truth"), 0):
        if isinstance(entry.content, Transform) and entry.content.device in truth:
            at_s = (entry.content.timestamp_ns - recording.start_ns) / 1e9
            truth[entry.content.device][at_s] = entry.content.matrix

    def true(device, at_s):
        return truth[device][min(truth[device], key=lambda time: abs(time - at_s))]

    seen = 0
    for at_s, carm, drill in zip(
        times_s, carms.transforms["CArmToVolume"], drills.transforms["DrillToVolume"], strict=True
    ):
        off = g.inverse(true("TruthCArmToVolume", at_s)) @ carm
        assert np.linalg.norm(off[:2, 3]) < 3.0 and np.linalg.norm(g.rotation_log(off[:3, :3])) < 0.02
        if abs(drill[:3, 3]).max() < 2_000:  # otherwise it is far away, as its pose was not known
            seen += 1
            assert np.linalg.norm((drill - true("TruthDrillToVolume", at_s))[:3, 3]) < 3.0
    assert seen > len(times_s) / 2
    (moving,) = (node for node in root.iter("LinearTransform") if node.get("name") == "CArmToVolume")
    first = np.array(moving.get("matrixTransformToParent").split(), float).reshape(4, 4)
    assert np.allclose(first, carms.transforms["CArmToVolume"][0], atol=1e-6)
    # The detector: square pixels, and the source's ray meets it at right angles within the picture.
    assert header["space"] == "right-anterior-superior"
    origin, (u_mm, v_mm) = header["space origin"], np.diag(header["space directions"])[:2]
    assert 900 < origin[2] < 1_200 and np.allclose(-origin[:2] / [u_mm, v_mm], (CARM_SIZE - 1) / 2, atol=5)


def test_tools_point_and_bone_is_closed(scene, recorded):
    """Bone is there if it was found while the session ran, which a busy machine may not get to."""
    out, _, _ = scene
    found = [entry.content.bone for entry in Recording(recorded).entries(lambda channel: channel.topic == "volume", 0)]
    assert (out.parent / "room-Bone.stl").exists() == any(bone is not None for bone in found)
    meshes = {path.stem: read_mesh(path) for path in out.parent.glob("room-*.stl")}
    drill = meshes["room-Drill"]
    assert drill.vertices_mm.max(axis=0)[2] == 0 and drill.vertices_mm.min(axis=0)[2] == -150
    for mesh in meshes.values():
        corners = np.unique(mesh.vertices_mm, axis=0, return_inverse=True)[1].ravel()[mesh.triangles]
        ends = np.sort(corners[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        assert (np.unique(ends, axis=0, return_counts=True)[1] % 2 == 0).all()
    a, b, c = (drill.vertices_mm[drill.triangles[:, n]] for n in range(3))
    assert np.einsum("ni,ni->", a, np.cross(b, c)) > 0, "its outside is outside"


def test_nothing_is_replaced_and_nothing_invented(scene, recorded, tmp_path):
    code, _, error = call("export", recorded, "--out", scene[0])
    assert code == 2 and "room.mrml: exists already" in error
    (tmp_path / "s-XRay.seq.nrrd").write_text("mine")
    code, _, error = call("export", recorded, "--out", tmp_path / "s.mrml")
    assert code == 2 and "s-XRay.seq.nrrd: exists already" in error and not (tmp_path / "s.mrml").exists()
    code, _, error = call("export", "tests/recording/golden/room.mcap", "--out", tmp_path / "g.mrml")
    assert code == 1 and "no X-ray in this part has a pose" in error and not (tmp_path / "g.mrml").exists()


@pytest.mark.parametrize("start_s", [2.0, 2.03, 2.06, 2.09])
def test_a_scene_of_a_piece_holds_the_pictures_that_it_states(recorded, tmp_path, start_s):
    """Also those that came just before the piece, of which the node spoke in it."""
    out = tmp_path / "p.mrml"
    code, _, error = call("export", recorded, "--start", start_s, "--duration", "0.7", "--out", out)
    assert code == 0, error
    data, header = nrrd.read(str(tmp_path / "p-XRay.seq.nrrd"))
    count = len(header["axis 3 index values"].split())
    assert count > 1 and data.shape == (CARM_SIZE, CARM_SIZE, 1, count) and data[..., -1].std() > 100
