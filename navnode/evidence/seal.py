"""A manifest of files by their SHA-256, signed with Ed25519 (RFC 8032).

``manifest.sig`` is the bare signature of ``manifest.json``, so that others can check it without navnode:
``openssl pkeyutl -verify -pubin -inkey key.pub.pem -rawin -in manifest.json -sigfile manifest.sig``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import platformdirs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from navnode.errors import ConfigError
from navnode.evidence.contents import Outcome
from navnode.files.ordinary import refuse_special
from navnode.files.whole import write_whole
from navnode.security.secrecy import refuse_shared

__all__ = ["MANIFEST", "PUBLIC_KEY", "SIGNATURE", "Manifest", "broken", "default_key", "private_key", "seal", "signed"]

MANIFEST, SIGNATURE, PUBLIC_KEY = "manifest.json", "manifest.sig", "key.pub.pem"
_OWN = {MANIFEST, SIGNATURE}
_MOST_BYTES = 1 << 24


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was signed."""

    schema: str = "navnode/evidence/1"
    navnode: str
    made_ns: int
    passed: bool
    outcome: Outcome | None = None
    """None: signed before there were three."""
    files: dict[str, str]
    """Path below the folder -> SHA-256."""


def default_key() -> Path:
    """Where this user's key is kept."""
    return Path(platformdirs.user_data_dir("navnode")) / "evidence.key"


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make one that its owner alone can read.

    Raises:
        ConfigError: it is no such key, others can read it, or it cannot be written.
    """
    if path.exists():
        refuse_special(path)
        refuse_shared(path)
        try:
            key = serialization.load_pem_private_key(path.read_bytes()[:_MOST_BYTES], password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a key without a password ({error})") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path}: not an Ed25519 key")
        return key
    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(pem)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be written ({error.strerror})") from error
    return made


def seal(folder: Path, key: Ed25519PrivateKey, version: str, made_ns: int, outcome: Outcome) -> Manifest:
    """Write manifest, signature and public key of all files below a folder."""
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_whole(folder / PUBLIC_KEY, public)
    passed = outcome is Outcome.PASSED
    manifest = Manifest(navnode=version, made_ns=made_ns, passed=passed, outcome=outcome, files=_hashes(folder))
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_whole(folder / MANIFEST, content)
    write_whole(folder / SIGNATURE, key.sign(content))
    return manifest


def signed(folder: Path) -> Manifest:
    """The manifest of evidence, whoever signed it.

    Raises:
        ConfigError: it has none.
    """
    try:
        return _manifest(_content(folder / MANIFEST))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error


def broken(folder: Path, trusted: Path | None = None) -> list[str]:
    """What of sealed evidence is not as it was signed; empty: nothing.

    Args:
        trusted: public key that must have signed it; None: the one that lies with it, which shows only that nothing
            changed since it was signed by somebody.

    Raises:
        ConfigError: it is no evidence, or the key is none.
    """
    try:
        content, signature = _content(folder / MANIFEST), _content(folder / SIGNATURE)
        pem = _content(trusted or folder / PUBLIC_KEY)
        public = serialization.load_pem_public_key(pem)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{trusted or folder / PUBLIC_KEY}: not a public key") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{trusted or folder / PUBLIC_KEY}: not an Ed25519 key")
    try:
        public.verify(signature, content)
    except InvalidSignature:
        return [f"{MANIFEST}: not signed by this key, or changed since"]
    listed, present = _manifest(content).files, _hashes(folder)
    found = [f"{name}: missing" for name in listed.keys() - present.keys()]
    found += [f"{name}: not in the manifest" for name in present.keys() - listed.keys()]
    found += [f"{name}: changed" for name in listed.keys() & present.keys() if listed[name] != present[name]]
    return sorted(found)


def _manifest(content: bytes) -> Manifest:
    try:
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{MANIFEST}: not a manifest ({error})") from error


def _content(path: Path) -> bytes:
    refuse_special(path)
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)


def _hashes(folder: Path) -> dict[str, str]:
    own = {folder / name for name in _OWN}
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path not in own):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            hashes[name] = "no file"  # what it leads to, or gives, may change as it likes
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
