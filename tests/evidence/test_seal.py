"""Sealed evidence: whatever is changed is named, and the key is its owner's."""

import os
import stat

import pytest

pytest.importorskip("cryptography")

from navnode.errors import ConfigError
from navnode.evidence import seal
from navnode.evidence.contents import Outcome


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "evidence"
    (folder / "part").mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    (folder / "part" / "b.log").write_text("fine")
    seal.seal(folder, seal.private_key(tmp_path / "key.pem"), "0.1.0", 5, Outcome.PASSED)
    return folder


def test_what_nobody_touched_is_whole(sealed, tmp_path):
    assert seal.broken(sealed) == []
    assert seal.broken(sealed, sealed / seal.PUBLIC_KEY) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "part" / "b.log").write_text("other"), "part/b.log: changed"),
        (lambda folder: (folder / "a.json").unlink(), "a.json: missing"),
        (lambda folder: (folder / "c.json").write_text(""), "c.json: not in the manifest"),
        (
            lambda folder: (folder / seal.MANIFEST).write_bytes((folder / seal.MANIFEST).read_bytes() + b" "),
            "not signed by this key",
        ),
        (lambda folder: (folder / seal.SIGNATURE).write_bytes(bytes(64)), "not signed by this key"),
        (lambda folder: (folder / "part" / seal.MANIFEST).write_text("{}"), "part/manifest.json: not in the manifest"),
        (lambda folder: (folder / "link").symlink_to("/usr"), "link: not in the manifest"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe: not in the manifest"),
    ],
    ids=["changed", "missing", "added", "manifest", "signature", "manifest within", "linked folder", "pipe"],
)
def test_a_change_is_named(sealed, change, named):
    change(sealed)
    (found,) = seal.broken(sealed)
    assert named in found


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_manifest_says_what_it_came_to(tmp_path, outcome):
    made = seal.seal(tmp_path, seal.private_key(tmp_path / "key.pem"), "0.1.0", 5, outcome)
    assert seal.signed(tmp_path) == made
    assert made.outcome is outcome and made.passed == (outcome is Outcome.PASSED)


def test_another_key_is_not_the_trusted_one(sealed, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    seal.seal(other, seal.private_key(tmp_path / "other.pem"), "0.1.0", 5, Outcome.PASSED)
    assert "not signed by this key" in seal.broken(sealed, other / seal.PUBLIC_KEY)[0]


def test_the_key_is_its_owners_and_is_kept(tmp_path):
    path = tmp_path / "below" / "key.pem"
    made = seal.private_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert seal.private_key(path).private_bytes_raw() == made.private_bytes_raw()
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        seal.private_key(path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="key"):
        seal.private_key(path)


def test_what_is_no_evidence_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=seal.MANIFEST):
        seal.broken(tmp_path)


def test_a_manifest_that_is_a_pipe_keeps_nobody_waiting(sealed):
    (sealed / seal.MANIFEST).unlink()
    os.mkfifo(sealed / seal.MANIFEST)
    with pytest.raises(ConfigError):
        seal.broken(sealed)
