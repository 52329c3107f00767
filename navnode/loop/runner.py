"""What drives the loop, live and in every kind of replay: arrivals in, steps, requests carried out, the rest sent on.

No sockets and no threads: whoever needs them passes executors that answer later, through :meth:`Runner.feed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from navnode.igtl.messages import Message
from navnode.loop.ingest import Ingest
from navnode.loop.pipeline import Pipeline
from navnode.types import (
    Input,
    Output,
    ReconstructionRequest,
    RegistrationRequest,
    SurfaceRequest,
    Volume,
    WorkerRequest,
)

Register = Callable[[RegistrationRequest, Volume | None], Input | None]
"""Carries out a request against the volume that it refers to; the answer, or None when it comes later."""

AskWorker = Callable[[WorkerRequest], Input | None]
"""Likewise, of what the reconstruction worker does."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message that the loop took, and what it led to."""

    message: Input
    arrival: int | None
    """The number of the arrival that the message was, if it was one."""
    outputs: list[Output]
    """Empty also when the step failed."""
    began_ns: int
    ended_ns: int
    """When everything was sent."""


class Runner:
    """One pipeline being driven.

    Args:
        ingest: what messages mean.
        register, ask_worker: carry out requests.
        now_ns: the time of steps: the clock's, or the session's that is run again.
        emit: takes every output except requests.
        record: takes every step, also one that failed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ingest: Ingest,
        *,
        register: Register,
        ask_worker: AskWorker,
        now_ns: Callable[[], int],
        emit: Callable[[Output], None] = lambda output: None,
        record: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.pipeline, self.ingest = pipeline, ingest
        self._register, self._ask_worker = register, ask_worker
        self._now_ns, self._emit, self._record = now_ns, emit, record

    def receive(self, message: Message, received_ns: int, arrival: int | None = None) -> None:
        """Take a message as it came in, if it is of a device of ours."""
        taken = self.ingest(message, received_ns)
        if taken is not None:
            self.feed(taken, arrival)

    def feed(self, message: Input, arrival: int | None = None) -> list[Output]:
        """Step, and then step again with every answer that is there at once; what the message itself led to."""
        first: list[Output] | None = None
        waiting = deque([(message, arrival)])
        while waiting:
            outputs = self._step(*waiting.popleft(), waiting)
            first = outputs if first is None else first
        return first or []

    def _step(self, message: Input, arrival: int | None, waiting: deque[tuple[Input, int | None]]) -> list[Output]:
        began_ns, outputs = self._now_ns(), list[Output]()
        try:
            outputs = self.pipeline.step(message)
            for output in outputs:
                if (answer := self._carry_out(output)) is not None:
                    waiting.append((answer, None))
        finally:  # a step that ends the node is in the recording, too
            self._record(Step(message, arrival, outputs, began_ns, self._now_ns()))
        return outputs

    def _carry_out(self, output: Output) -> Input | None:
        match output:
            case RegistrationRequest():
                return self._register(output, self.pipeline.volume.current)
            case ReconstructionRequest() | SurfaceRequest():
                return self._ask_worker(output)
            case _:
                self._emit(output)
                return None
