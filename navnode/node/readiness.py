"""What is found out before a node starts: whether it can use what its configuration names, and what that lacks."""

from __future__ import annotations

from pathlib import Path

from navnode.clock import now_ns
from navnode.config import Config, DicomSource, SourceSection, VideoSource, is_ct_file
from navnode.errors import ConfigError
from navnode.loop import calibrations
from navnode.loop.calibrations import Calibrations
from navnode.security import curve

__all__ = ["check_calibrations", "check_files", "lacking", "listening"]


def check_calibrations(config: Config) -> None:
    """Check that a node that starts now can use its calibrations.

    Raises:
        CalibrationError: one is missing, failed, expired, or is of another device or detector mode; names it.
    """
    Calibrations.load(config, now_ns())


def lacking(config: Config) -> list[tuple[str, str]]:
    """What a configuration still lacks, or a node that starts now cannot use: (key, what about it)."""
    return calibrations.lacking(calibrations.with_kept(config), now_ns())


def listening(config: Config) -> dict[str, tuple[str, int]]:
    """Where a node listens: for whom -> address and port."""
    found = {f"consoles {config.console.port}": (config.console.host, config.console.port)}
    if config.display.enabled:
        found[f"page {config.display.port}"] = (config.display.host, config.display.port)
    remote = config.reconstruction.remote
    if remote is not None:
        found[f"worker {remote.port}"] = (remote.host, remote.port)
    for source in config.sources:
        if not isinstance(source, SourceSection):
            found[f"gateway {source.port}"] = (source.host, source.port)
        if isinstance(source, DicomSource):
            found[f"DICOM {source.listen_port}"] = (source.listen, source.listen_port)
    return found


def check_files(config: Config) -> None:
    """Check that the other files that a configuration names are there: its CT, label maps, keys and certificates.

    Raises:
        ConfigError: one is missing, or is something else; names it.
    """
    ct = config.volume.ct
    if is_ct_file(ct) and not Path(ct).exists():
        raise ConfigError(f"volume.ct: {ct}: no such file or folder")
    for number, body in enumerate(config.bodies):
        for key, path in (("labels", body.labels), ("file", body.file)):
            if path and not Path(path).is_file():
                raise ConfigError(f"bodies[{number}].{key}: {path}: no such file")
    if config.bones_alone:
        from navnode.registration.answer import alone  # here: it is seldom checked, and slow to load

        alone(config)
    plans = Path(config.plans.file) if config.plans.file and Path(config.plans.file).exists() else None
    if (config.bodies or plans is not None) and is_ct_file(ct):
        from navnode.node.plans import kept_plans  # here: they are seldom checked, and slow to load
        from navnode.registration.answer import articulated
        from navnode.simulation.sample_ct import load_ct

        volume = load_ct(config.volume)
        if config.bodies:
            articulated(config, volume)
        if plans is not None:
            kept_plans(plans, volume)
    remote = config.reconstruction.remote
    if remote is not None:
        curve.check(Path(remote.key), Path(remote.worker_key))
    if config.console.tls is not None:
        config.console.tls.server_context()
    for source in config.sources:
        match source:
            case SourceSection() if source.tls is not None:
                source.tls.client_context()
            case DicomSource() if source.tls is not None:
                source.tls.server_context()
            case VideoSource() if source.is_file and not Path(source.device).is_file():
                raise ConfigError(f"sources.device: {source.device}: no such file")
