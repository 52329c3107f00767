"""Exposes the node's state to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from navnode.types import NodeState, RecordingState, Status

__all__ = ["CONTENT_TYPE", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4"
_QUANTILES = {"p50": "0.5", "p99": "0.99", "max": "1"}


class _Node(Collector):
    """Collects metrics from the newest state.

    Args:
        state: returns the newest state; None: the node is silent.
    """

    def __init__(self, state: Callable[[], NodeState | None]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        yield _gauge("up", "1 while the node reports its state", float(state is not None))
        if state is None:
            return
        yield _counter("frames_received", "X-rays received", state.frames_received)
        yield _counter("frames_registered", "X-rays registered", state.frames_registered)
        yield _gauge("frame_rate_hz", "Registered X-rays per second", state.frame_rate_hz)
        yield _labelled(CounterMetricFamily, "dropped", "Dropped messages", "topic", state.dropped)
        yield _labelled(CounterMetricFamily, "frames_status", "X-rays by status", "status", state.status_counts)
        yield _statuses("registration_status", "1 for the registration's status", {"": state.registration.status}, "")
        tools = {name: validity.status for name, validity in state.tools.items()}
        yield _statuses("tool_status", "1 for the tool's status", tools, "tool")
        bodies = {name: validity.status for name, validity in state.bodies.items()}
        yield _statuses("body_status", "1 for the status of a bone that moves by itself", bodies, "body")
        connected = {name: float(not why) for name, why in state.sources.items()}
        yield _labelled(GaugeMetricFamily, "source_connected", "1 while a source is connected", "source", connected)
        yield _gauge("worker_alive", "1 while the reconstruction worker is alive", float(state.worker_alive))
        yield _counter("volumes", "Volumes reconstructed", state.volumes)
        yield _gauge("consoles", "Consoles connected", state.consoles)
        yield _gauge("recording", "1 while a session is recorded, -1 after a failure", _recording(state.recording))
        if state.recording.minutes_left is not None:
            yield _gauge("recording_minutes_left", "Minutes until the disk is full", state.recording.minutes_left)
        yield _gauge("replay", "1 if outputs derive from a recording", float(state.replay))
        yield _counter("dose_gy_cm2", "Dose-area product of the session's X-rays", state.dose.gy_cm2)
        labels, about = ("path", "quantile"), "Time from the last byte received to the output sent, recent samples"
        late = GaugeMetricFamily("navnode_latency_ms", about, labels=labels)
        for path, figures in (("frame", state.latency_ms), ("tool", state.overlay_latency_ms)):
            for part, quantile in _QUANTILES.items():
                if (value := getattr(figures, part)) is not None:
                    late.add_metric((path, quantile), value)
        yield late
        if state.target_sigma_mm is not None:
            yield _gauge("target_sigma_mm", "Expected error at the anatomy", state.target_sigma_mm)


def text(state: Callable[[], NodeState | None]) -> bytes:
    """The metrics in Prometheus' text format.

    Args:
        state: returns the newest state; None: the node is silent.
    """
    registry = CollectorRegistry()
    registry.register(_Node(state))
    return generate_latest(registry)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"navnode_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"navnode_{name}", about, value=value)


def _labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    about: str,
    label: str,
    values: dict[str, int] | dict[str, float],
) -> Metric:
    family = kind(f"navnode_{name}", about, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _statuses(name: str, about: str, statuses: dict[str, Status], label: str) -> Metric:
    family = GaugeMetricFamily(f"navnode_{name}", about, labels=(*((label,) if label else ()), "status"))
    for key, status in statuses.items():
        for each in Status:
            family.add_metric((*((key,) if label else ()), each.value), float(each is status))
    return family


def _recording(recording: RecordingState) -> float:
    return -1.0 if recording.failure else float(recording.running)
