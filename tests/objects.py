"""A store of objects on loopback: moto's S3, for commands that tests call."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import msgspec
import pytest

from navnode.config import decode
from navnode.files import stores
from navnode.recording import Recording
from navnode.recording.edit import cut, new_session
from navnode.recording.format import CONFIGURATION

SECRET = "7h15-15-a-s3cr3t"
KEY = "AKIAIOSFODNN7EXAMPLE"
GOLDEN = Path(__file__).parent / "recording" / "golden" / "room.mcap"


def figures(row):
    """What a row says but for when and where."""
    changing = {"key", "session", "elapsed_s", "realtime_factor", "digest", "version"}
    return {name: value for name, value in row.items() if name not in changing}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An S3 server, and where it listens."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    from tests.conftest import find_free_port

    served = moto.ThreadedMotoServer("127.0.0.1", find_free_port(), verbose=False)
    served.start()
    yield served
    served.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The URL of an empty bucket, which commands here can use."""
    import boto3
    from s3fs import S3FileSystem

    url = f"http://127.0.0.1:{server._port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_WAITS_S", (0.01,) * 4)
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="ward")
    yield "s3://ward/site one"
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def here(monkeypatch):
    """Evaluation in this process."""
    from navnode.bench.evaluation import cluster

    monkeypatch.setattr(cluster, "run", lambda tasks, score, *_: [(task, score(task)) for task in tasks])


@pytest.fixture
def upload(bucket):
    """Puts bytes there under any name."""
    import boto3

    client = boto3.client("s3")
    return lambda name, data: client.put_object(Bucket="ward", Key=f"site one/{name}", Body=data)


@pytest.fixture
def reading(bucket, monkeypatch):
    """Replaces how files are read: a function (path, start, end, read)."""
    from s3fs import S3FileSystem

    read = S3FileSystem._cat_file

    def replaced(by):
        async def cat(self, path, version_id=None, start=None, end=None):
            changed = by(path, start, end)
            return await read(self, path, start=start, end=end if changed is None else changed)

        monkeypatch.setattr(S3FileSystem, "_cat_file", read if by is None else cat)
        S3FileSystem.clear_instance_cache()

    return replaced


@pytest.fixture(scope="module")
def live(recorded, tmp_path_factory) -> Path:
    """Two seconds of a node's session."""
    path = tmp_path_factory.mktemp("live") / "live.mcap"
    cut(Recording(recorded), path, duration_s=2.0)
    return path


@pytest.fixture(scope="module")
def piece(tmp_path_factory) -> Path:
    """A second of the golden session, of a node without a CT: it is scored at once."""
    path, golden = tmp_path_factory.mktemp("piece") / "piece.mcap", Recording(GOLDEN)
    config, change = decode(golden.attachment(CONFIGURATION), "c"), msgspec.structs.replace
    reconstruction = change(config.reconstruction, enabled=True, method="sart")
    config = change(config, volume=change(config.volume, ct=""), reconstruction=reconstruction)
    with new_session(path) as writer:
        writer.describe("navnode", {"format": "2", "session": "piece", "version": "0.1.0", "from_start": "true"})
        writer.attach(CONFIGURATION, msgspec.json.encode(config), "", 0)
        for entry in golden.raw():
            if entry.log_time_ns - golden.start_ns <= 1e9:
                writer.add(entry.channel, (entry.data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
    return path
