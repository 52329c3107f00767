"""What a training goes on from: whole checkpoints, and lines that end where they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from navnode.errors import ConfigError

torch = pytest.importorskip("torch", reason="training needs the extra `train`")

checkpoints = pytest.importorskip("navnode.reconstruction.training.checkpoints")
end_at, resume, save = checkpoints.end_at, checkpoints.resume, checkpoints.save


def parts(width: int = 4):
    network = torch.nn.Linear(3, width)
    return {"network": network, "optimiser": torch.optim.AdamW(network.parameters())}


def test_a_training_goes_on_from_what_was_saved(tmp_path):
    path, begun, again = tmp_path / "checkpoint.pt", parts(), parts()
    assert resume(path, again) == 0
    save(path, begun, 70)
    assert resume(path, again) == 70
    assert torch.equal(begun["network"].weight, again["network"].weight)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_torn_checkpoint_is_named(tmp_path, kept):
    path = tmp_path / "checkpoint.pt"
    save(path, parts(), 70)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: damaged, or of another network; move it away"):
        resume(path, parts())


@pytest.mark.parametrize("given", [b"\0" * 4096, b"junk", b"PK\x03\x04 no archive", b"\x80\x02}q\x00."])
def test_junk_is_no_checkpoint(tmp_path, given):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(given)
    with pytest.raises(ConfigError, match="damaged"):
        resume(path, parts())


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save(path, parts(width=5), 70)
    with pytest.raises(ConfigError, match="of another network"):
        resume(path, parts())
    torch.save({"step": 3}, path)
    with pytest.raises(ConfigError, match="of another network"):
        resume(path, parts())


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        save(tmp_path / "missing" / "checkpoint.pt", parts(), 1)


@pytest.mark.parametrize("torn", [b"", b'{"step": 3', b'{"step": 2, "loss": 0.1}', b"\xff\xfe\n", b"[]\n", b"\n"])
def test_lines_end_at_the_checkpoint(tmp_path: Path, torn):
    path = tmp_path / "losses.jsonl"
    rows = [json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in (1, 2, 3, 4)]
    path.write_bytes("".join(rows).encode() + torn)
    end_at(path, 2)
    assert path.read_text() == "".join(rows[:2])
    end_at(tmp_path / "missing.jsonl", 2)
    assert not (tmp_path / "missing.jsonl").exists()
