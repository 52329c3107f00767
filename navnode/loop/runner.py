"""Drives the loop, live and in every kind of replay: steps through arrivals, executes requests, emits other outputs.

No sockets and no threads: executors that need them answer later, through :meth:`Runner.feed`.
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

__all__ = ["AskWorker", "Register", "Runner", "Step"]

Register = Callable[[RegistrationRequest, Volume | None], Input | None]
"""Executes a request against the volume that it refers to; returns the answer, or None if it comes later."""

AskWorker = Callable[[WorkerRequest], Input | None]
"""Likewise for requests to the reconstruction worker."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message to the loop, and its outputs."""

    message: Input
    arrival: int | None
    """Number of the arrival that the message was made from; None: it did not arrive from outside."""
    outputs: list[Output]
    """Empty also when the step failed."""
    began_ns: int
    ended_ns: int
    """When all outputs were sent."""


class Runner:
    """Drives one pipeline.

    Args:
        ingest: converts messages into inputs.
        register, ask_worker: execute requests.
        now_ns: returns the time of steps: the clock's, or that of the session being replayed.
        emit: called with every output except requests.
        record: called with every step, also with one that failed.
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
        """Feed a message that arrived, if the loop uses its device."""
        converted = self.ingest(message, received_ns)
        if converted is not None:
            self.feed(converted, arrival)

    def feed(self, message: Input, arrival: int | None = None) -> list[Output]:
        """Step with a message, then with every immediate answer to it; returns the message's own outputs."""
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
                if (answer := self._execute(output)) is not None:
                    waiting.append((answer, None))
        finally:  # a step that ends the node belongs in the recording, too
            self._record(Step(message, arrival, outputs, began_ns, self._now_ns()))
        return outputs

    def _execute(self, output: Output) -> Input | None:
        match output:
            case RegistrationRequest():
                return self._register(output, self.pipeline.volume.current)
            case ReconstructionRequest() | SurfaceRequest():
                return self._ask_worker(output)
            case _:
                self._emit(output)
                return None
