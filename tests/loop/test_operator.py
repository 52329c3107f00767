"""What an operator may have done."""

from __future__ import annotations

from navnode.types import (
    CArmPose,
    CommandResult,
    Operation,
    OperatorCommand,
    PatientPose,
    ReconstructionRequest,
    Status,
    ToolPose,
    VolumeReady,
    WorkerState,
)
from tests.loop.theatre import Theatre, of


def command(theatre: Theatre, operation: Operation, tool: str = "") -> CommandResult:
    (result,) = of(CommandResult, theatre.feed(OperatorCommand(operation, tool, theatre.now_ns)))
    return result


def test_an_operator_may_accept_a_candidate_and_it_stays_degraded_until_confirmed():
    theatre = Theatre(registration={"confirm_frames": 50})
    assert not command(theatre, Operation.ACCEPT_REGISTRATION).done
    theatre.run(1.0)
    assert command(theatre, Operation.ACCEPT_REGISTRATION).done
    poses = of(ToolPose, theatre.run(1.0))
    assert poses[-1].validity.status is Status.DEGRADED and "accepted by the operator" in poses[-1].validity.reason
    assert of(ToolPose, theatre.run(8.0))[-1].validity.status is Status.VALID


def test_an_operator_may_reject_a_registration_and_everything_leaves_at_once():
    theatre = Theatre()
    theatre.run(4.0)
    epoch = theatre.pipeline.state().epoch
    before = len(theatre.outputs)
    assert command(theatre, Operation.REJECT_REGISTRATION).done
    made = theatre.outputs[before:]
    assert of(PatientPose, made)[0].volume_from_patient is None and of(CArmPose, made)[0].volume_from_carm is None
    assert "rejected" in of(ToolPose, made)[0].validity.reason
    assert theatre.pipeline.state().epoch != epoch
    assert of(ToolPose, theatre.run(6.0))[-1].validity.status is Status.VALID


def test_an_operator_may_take_a_view_of_a_direction_that_is_known():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    assert not command(theatre, Operation.TAKE_VIEW).done
    for request in of(ReconstructionRequest, theatre.run(9.0)) + of(ReconstructionRequest, theatre.run(9.0)):
        theatre.feed(VolumeReady(request.grid.filled(0.0), None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    for request in of(ReconstructionRequest, theatre.run(1.0)):
        theatre.feed(VolumeReady(request.grid.filled(0.0), None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    assert not of(ReconstructionRequest, theatre.run(9.0))
    assert command(theatre, Operation.TAKE_VIEW).done
    newer = of(ReconstructionRequest, theatre.run(0.5))
    assert newer and max(v.timestamp_ns for v in newer[0].views) >= theatre.now_ns - 500_000_000


def test_an_operator_chooses_the_tool_that_the_slices_follow():
    theatre = Theatre()
    assert theatre.pipeline.state().active_tool == "Drill"
    assert "there is no tool 'Saw'" in command(theatre, Operation.SET_TOOL, "Saw").text
    assert command(theatre, Operation.SET_TOOL, "Drill").done
