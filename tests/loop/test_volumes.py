"""Views kept, volumes asked for and taken, with and without a CT."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from navnode import geometry as g
from navnode.types import (
    CommandResult,
    Grid,
    Mesh,
    Operation,
    OperatorCommand,
    PatientPose,
    ReconstructionRequest,
    RegisteredFrame,
    Registration,
    RegistrationRequest,
    SourceState,
    Status,
    SurfaceReady,
    SurfaceRequest,
    ToolPose,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerState,
)
from tests.loop.theatre import SCENARIO, SOURCE, T0, Theatre, of

MESH = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))


def test_views_are_collected_and_asked_for():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(9.0))
    assert len(requests) == 1 and len(requests[0].views) >= 4
    directions = [view.volume_from_carm[:3, 2] for view in requests[0].views]
    apart = [g.angle_between_rad(a, b) for k, a in enumerate(directions) for b in directions[:k]]
    assert min(apart) >= np.deg2rad(20)
    assert np.allclose(requests[0].center_mm, SCENARIO.isocentre_mm, atol=5.0)


def test_without_a_ct_the_first_views_give_the_volume():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(9.0))
    poses = of(ToolPose, theatre.outputs)
    assert len(requests) == 1 and all(p.volume_from_tool is None for p in poses)
    assert "no volume yet" in of(RegisteredFrame, theatre.outputs)[0].validity.reason
    assert requests[0].lungs  # no CT shows them
    made = VolumeReady(requests[0].grid.filled(0.0), None, requests[0].request, 4, "SART", 1.0, "", theatre.now_ns)
    (update,) = theatre.feed(made)
    assert update.role == "navigation" and update.validity.status is Status.DEGRADED

    def in_patient(request: RegistrationRequest) -> Registration:
        return dataclasses.replace(theatre.truly(request), volume_from_carm=request.patient_from_carm)

    theatre.register = in_patient
    last = of(ToolPose, theatre.run(1.5))[-1]
    assert last.validity.status is Status.DEGRADED and "few X-rays" in last.validity.reason
    true = g.inverse(SCENARIO.volume_from_patient) @ SCENARIO.volume_from_tool(
        (last.validity.source_time_ns - T0) / 1e9
    )
    assert np.linalg.norm(last.volume_from_tool[:3, 3] - true[:3, 3]) < 1.0


def test_a_request_lost_with_its_worker_is_made_again():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 1))
    assert len(of(ReconstructionRequest, theatre.run(9.0))) == 1
    assert not of(ReconstructionRequest, theatre.run(0.5))
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 2))
    assert len(of(ReconstructionRequest, theatre.run(0.5))) == 1


def test_a_failed_reconstruction_is_said_and_nothing_else_happens():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    assert theatre.feed(VolumeReady(None, None, 1, 0, "SART", 1.0, "nobody asked", theatre.now_ns)) == []
    assert (
        theatre.feed(
            VolumeReady(None, None, request.request, 0, "SART", 1.0, "all views look the same way", theatre.now_ns)
        )
        == []
    )
    notices = theatre.pipeline.state().notices
    assert any("same way" in notice for notice in notices) and not any("nobody" in notice for notice in notices)


def test_a_reconstruction_that_failed_is_tried_again():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(VolumeReady(None, None, request.request, 0, "SART", 1.0, "out of memory", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(8.0))
    assert requests and requests[0].request > request.request


def test_without_a_ct_a_lost_registration_takes_its_volume_along():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(VolumeReady(request.grid.filled(0.0), None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    theatre.register = lambda r: dataclasses.replace(theatre.truly(r), volume_from_carm=r.patient_from_carm)
    assert of(ToolPose, theatre.run(1.5))[-1].validity.usable
    theatre.register = theatre.nothing
    made = theatre.run(20.0)
    assert not of(ToolPose, made)[-1].validity.usable
    (again,) = of(ReconstructionRequest, made)
    assert again.request > request.request
    assert min(view.timestamp_ns for view in again.views) > max(view.timestamp_ns for view in request.views)


def test_without_a_ct_views_from_before_a_source_vanished_are_not_mixed_with_later_ones():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.run(4.0)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    vanished_ns = theatre.now_ns
    (request,) = of(ReconstructionRequest, theatre.run(12.0))
    assert all(view.timestamp_ns > vanished_ns for view in request.views)


def test_the_ct_is_shown_once_and_again_with_its_surface():
    theatre = Theatre()
    (shown,) = of(VolumeUpdate, theatre.run(2.0))
    assert shown.method == "CT" and shown.bone is None and shown.validity.status is Status.VALID
    assert not of(SurfaceRequest, theatre.outputs), "there is nobody to ask"
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 1))
    (request,) = of(SurfaceRequest, theatre.run(1.0))
    assert request.volume is shown.volume
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 2))
    (again,) = of(SurfaceRequest, theatre.run(1.0))  # another worker knows nothing of it
    assert again.request != request.request
    for number in (0, request.request, again.request - 1):  # such as an answer about another node's CT
        assert theatre.feed(SurfaceReady(MESH, "", 5.0, theatre.now_ns, number)) == []
    (update,) = theatre.feed(SurfaceReady(MESH, "", 5.0, theatre.now_ns, again.request))
    assert update == dataclasses.replace(shown, bone=MESH)
    assert theatre.feed(SurfaceReady(MESH, "", 5.0, theatre.now_ns, again.request)) == []
    assert not of(SurfaceRequest, theatre.run(1.0))


def test_a_surface_that_failed_is_said_and_tried_again():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 1))
    (request,) = of(SurfaceRequest, theatre.run(1.0))
    assert theatre.feed(request.failed("no room", theatre.now_ns)) == []
    assert any("no room" in notice for notice in theatre.pipeline.state().notices)
    assert not of(SurfaceRequest, theatre.run(4.0))
    (request,) = of(SurfaceRequest, theatre.run(2.0))
    assert theatre.feed(request.failed("", theatre.now_ns)) == [], "a CT without bone"
    assert not of(SurfaceRequest, theatre.run(7.0))


def test_without_a_ct_nobody_knows_which_side_is_which():
    assert Theatre().pipeline.state().oriented
    assert not Theatre(ct=False).pipeline.state().oriented
    assert Theatre(ct=False, volume={"oriented": True}).pipeline.state().oriented


def no_answers(grid: Grid) -> dict[str, tuple[Volume, Mesh | None]]:
    """Volumes and surfaces that no worker makes of a request for this grid."""
    made = grid.filled(0.0)
    moved, mirrored = made.volume_from_index.copy(), made.volume_from_index @ np.diag([-1.0, 1, 1, 1])
    moved[0, 3] += 30
    hole = made.voxels.copy()
    hole[3, 4, 5] = np.nan
    middle = np.array(grid.center_mm, np.float32)
    mesh = Mesh(middle + MESH.vertices_mm, MESH.triangles)
    return {
        "elsewhere": (Volume(made.voxels, moved), None),
        "mirrored": (Volume(made.voxels, mirrored), None),
        "another size": (Volume(made.voxels[:, :-1], made.volume_from_index), None),
        "a picture": (Volume(made.voxels[0], made.volume_from_index), None),
        "a place of 3 x 4": (Volume(made.voxels, made.volume_from_index[:3]), None),
        "a hole": (Volume(hole, made.volume_from_index), None),
        "whole numbers": (Volume(made.voxels.astype(np.int16), made.volume_from_index), None),
        "a surface far off": (made, dataclasses.replace(mesh, vertices_mm=mesh.vertices_mm + np.float32(900))),
        "a surface nowhere": (made, dataclasses.replace(mesh, vertices_mm=mesh.vertices_mm * np.float32(np.nan))),
        "a corner that is none": (made, dataclasses.replace(mesh, triangles=np.array([[0, 1, 9]], np.uint32))),
        "flat corners": (made, dataclasses.replace(mesh, vertices_mm=mesh.vertices_mm[:, :2])),
        "no triangles": (made, dataclasses.replace(mesh, triangles=mesh.triangles[:0])),
    }


@pytest.mark.parametrize("what", no_answers(Grid()))
def test_an_answer_to_something_else_is_no_volume(what):
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    volume, bone = no_answers(request.grid)[what]
    assert not of(
        VolumeUpdate, theatre.feed(VolumeReady(volume, bone, request.request, 4, "x", 1.0, "", theatre.now_ns))
    )
    assert theatre.pipeline.volume.current is None
    assert any("the worker answered something else" in notice for notice in theatre.pipeline.state().notices)


@pytest.mark.parametrize("what", [name for name, (_, bone) in no_answers(Grid()).items() if bone is not None])
def test_what_cannot_be_the_cts_surface_is_not_shown_as_it(what):
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 1))
    (request,) = of(SurfaceRequest, theatre.run(2.0))
    bone = no_answers(Grid.around(request.volume.center_mm))[what][1]
    assert theatre.feed(SurfaceReady(bone, "", 5.0, theatre.now_ns, request.request)) == []
    assert any("no bone surface of the CT: its surface" in notice for notice in theatre.pipeline.state().notices)


def test_what_a_worker_says_is_one_short_line():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    said = "\x1b[2J<b>\n" + 5000 * "x"
    answer = VolumeReady(request.grid.filled(0.0), None, request.request, 4, said, 1.0, said, theatre.now_ns)
    (update,) = of(VolumeUpdate, theatre.feed(answer))
    for text in (update.method, update.validity.reason):
        assert text.isprintable() and len(text) <= 300


def with_volume(theatre: Theatre) -> ReconstructionRequest:
    """Without a CT, the volume that a worker made of the first X-rays."""
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(VolumeReady(request.grid.filled(0.0), None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    return request


def beside_tracking(theatre: Theatre, turned_rad: float, right_mm: float, deep_mm: float):
    """Registers as to a smeared volume: as if from a view, at another depth."""

    def register(request: RegistrationRequest) -> Registration:
        off = np.array([0.0, turned_rad, 0.0, right_mm, 0.0, deep_mm])
        made = request.patient_from_carm @ g.exp(off, (0.0, 0.0, 700.0))
        return dataclasses.replace(theatre.truly(request), volume_from_carm=made)

    return register


def nearest_deg(request: ReconstructionRequest, patient_from_carm: np.ndarray) -> float:
    lines = [view.volume_from_carm[:3, 2] for view in request.views]
    return float(np.rad2deg(min(g.angle_between_rad(line, patient_from_carm[:3, 2]) for line in lines)))


def test_without_a_ct_an_xray_from_a_side_without_a_view_is_placed_by_tracking_alone():
    theatre = Theatre(ct=False)
    request = with_volume(theatre)
    registered: list[float] = []

    def register(asked: RegistrationRequest) -> Registration:
        registered.append(nearest_deg(request, asked.patient_from_carm))
        return theatre.nothing(asked) if registered[-1] > 5.5 else beside_tracking(theatre, 0.05, 1.0, 15.0)(asked)

    theatre.register = register
    shown = of(RegisteredFrame, theatre.run(14.0))
    aside = [each for each in shown if "tracking alone" in each.validity.reason]
    assert registered and max(registered) <= 5.5
    assert len(aside) > 10 and all(each.validity.status is Status.DEGRADED for each in aside)
    for each in shown:
        if each.volume_from_carm is not None:
            true = g.inverse(SCENARIO.volume_from_patient) @ SCENARIO.volume_from_carm(
                (each.frame.timestamp_ns - T0) / 1e9
            )
            assert np.linalg.norm(each.volume_from_carm[:3, 3] - true[:3, 3]) < 2.0  # not 15 mm deeper
    assert of(ToolPose, theatre.outputs)[-1].validity.usable


def test_without_a_ct_the_same_error_from_the_same_side_says_nothing_and_a_change_says_that_a_marker_moved():
    theatre = Theatre(ct=False)
    with_volume(theatre)
    theatre.register = beside_tracking(theatre, 0.06, 2.0, 20.0)
    calm = of(PatientPose, theatre.run(10.0))
    assert {each.validity.status for each in calm} == {Status.DEGRADED}
    assert all("few X-rays" in each.validity.reason for each in calm)
    assert max(np.linalg.norm(each.volume_from_patient[:3, 3]) for each in calm) < 0.5
    theatre.register = beside_tracking(theatre, 0.06, 7.5, 20.0)  # 5.5 mm aside
    doubted = of(PatientPose, theatre.run(10.0))
    assert "a little elsewhere" in doubted[-1].validity.reason
    theatre.register = beside_tracking(theatre, 0.06, 20.0, 20.0)
    lost = of(PatientPose, theatre.run(10.0))
    assert any("registration lost" in each.validity.reason for each in lost)


def test_without_a_ct_what_is_usual_from_a_side_is_not_learned_while_the_marker_may_have_moved():
    theatre = Theatre(ct=False)
    with_volume(theatre)
    theatre.register = beside_tracking(theatre, 0.0, 0.0, 15.0)
    theatre.run(0.5)
    theatre.pipeline.patient.unsure("the patient's marker was hidden")
    theatre.register = beside_tracking(theatre, 0.0, 6.0, 15.0)
    said = of(PatientPose, theatre.run(16.0))
    assert all(each.validity.reason != "the volume was made from a few X-rays" for each in said)


def test_a_volume_that_is_being_made_is_said():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.run(9.0)
    assert "it is being made from 4 views" in of(RegisteredFrame, theatre.outputs)[-1].validity.reason


def ready(request: ReconstructionRequest, theatre: Theatre) -> VolumeReady:
    return VolumeReady(request.grid.filled(0.0), None, request.request, 4, "SART", 1.0, "", theatre.now_ns)


def test_without_a_ct_views_of_before_the_marker_jumped_are_not_mixed_with_later_ones():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.run(3.5)
    theatre.moved_patient_marker = g.rigid(None, (20.0, 0.0, 0.0))
    jumped_ns = theatre.now_ns
    requests = of(ReconstructionRequest, theatre.run(20.0))
    assert requests and all(view.timestamp_ns >= jumped_ns for view in requests[0].views)


def test_without_a_ct_a_volume_is_not_taken_if_the_marker_jumped_while_it_was_made():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.moved_patient_marker = g.rigid(None, (20.0, 0.0, 0.0))
    theatre.run(0.5)
    assert theatre.feed(ready(request, theatre)) == []
    theatre.run(2.0)
    assert not any(each.validity.usable for each in of(PatientPose, theatre.outputs))


@pytest.mark.parametrize("again", [False, True], ids=["first volume", "a later one"])
def test_without_a_ct_what_is_usual_is_learned_from_the_views_themselves(again):
    """A marker that moved since they were exposed shows at once, also behind a doubt, and in a later volume."""
    theatre = Theatre(ct=False)
    request = with_volume(theatre)
    theatre.register = beside_tracking(theatre, 0.06, 2.0, 20.0)
    learned = [0]

    def register(asked: RegistrationRequest) -> Registration:
        learned[0] += asked.of_volume
        return beside_tracking(theatre, 0.06, 2.0 if asked.of_volume else 22.0, 20.0)(asked)

    if again:
        theatre.run(3.0)
        request = of(ReconstructionRequest, theatre.outputs)[-1]  # asked for with a fifth view
        theatre.register = register
        theatre.feed(ready(request, theatre))
    theatre.register = register
    theatre.pipeline.patient.unsure("the patient's marker was hidden")
    said = of(PatientPose, theatre.run(12.0))
    assert learned[0] == len(request.views)
    assert any("registration lost" in each.validity.reason for each in said)


def test_without_a_ct_a_volume_that_does_not_show_its_own_xrays_is_not_lost_by_others_that_do_not_match():
    theatre = Theatre(ct=False)
    with_volume(theatre)
    theatre.register = theatre.nothing
    shown = of(RegisteredFrame, theatre.run(12.0))
    unlike = [each for each in shown if "what its own X-ray from this side does" in each.validity.reason]
    assert len(unlike) > 10 and all(each.validity.status is Status.DEGRADED for each in unlike)
    assert not any("lost" in each.validity.reason for each in of(PatientPose, theatre.outputs))


def test_without_a_ct_a_doubt_is_shown_with_the_xray_and_keeps_no_view():
    theatre = Theatre(ct=False)
    with_volume(theatre)
    theatre.register = beside_tracking(theatre, 0.06, 2.0, 20.0)
    theatre.run(3.0)
    theatre.register = beside_tracking(theatre, 0.06, 7.5, 20.0)  # 5.5 mm aside
    shown = of(RegisteredFrame, theatre.run(10.0))
    assert "a little elsewhere" in shown[-1].validity.reason
    result = of(CommandResult, theatre.feed(OperatorCommand(Operation.TAKE_VIEW, "", 0)))
    assert not result[0].done and "may have moved" in result[0].text


def test_why_there_is_no_volume_is_said_where_it_was_tried():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(
        VolumeReady(None, None, request.request, 0, "SART", 1.0, "all views look the same way", theatre.now_ns)
    )
    assert "no volume yet: all views look the same way" in of(RegisteredFrame, theatre.run(0.5))[-1].validity.reason
