"""Sources of every type: their keys, limits and defaults."""

import tomllib

import pytest

from navnode import config
from navnode.errors import ConfigError
from tests.config.test_config import MINIMAL


def parse(text: str) -> config.Config:
    return config.parse(tomllib.loads(MINIMAL + text), "node.toml")


def test_a_source_is_openigtlink_unless_it_says_otherwise():
    loaded = parse("[[sources]]\nport = 18945\n[[sources]]\ntype = 'dicom'\n[[sources]]\ntype = 'video'\ndevice = '0'")
    assert [type(source).__name__ for source in loaded.sources] == ["SourceSection", "DicomSource", "VideoSource"]
    assert {source.host for source in loaded.sources} == {"127.0.0.1"}
    assert all(source.client_tls is None for source in loaded.sources)


def test_a_session_stores_sources_of_every_type():
    import msgspec

    loaded = parse("[[sources]]\nport = 18945\n[[sources]]\ntype = 'video'\ndevice = '0'\nregion = [0, 0, 640, 480]")
    assert config.decode(msgspec.json.encode(loaded), "session") == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type = 'dicon'", r"sources\[0\].type"),
        ("type = 'dicom'\nae_titel = 'X'", r"unknown key 'sources\[0\].ae_titel' \(did you mean 'ae_title'\?\)"),
        ("type = 'video'\ndevice = '0'\nregoin = [0, 0, 9, 9]", r"did you mean 'region'"),
        ("port = 18945\nhots = 'x'", r"did you mean 'host'"),
        ("type = 'video'", r"key 'sources\[0\].device' is missing"),
        ("type = 'dicom'\nlisten = '0.0.0.0'", "insecure"),
        ("type = 'dicom'\nae_title = 'LONGER THAN 16 CHARACTERS'", "ae_title"),
        ("type = 'dicom'\npdu_kb = 100000", "pdu_kb"),
        ("type = 'dicom'\nport = 11112", "both 11112"),
        ("type = 'dicom'\nlisten_port = 18944", "both 18944"),
        ("type = 'video'\ndevice = '0'\nport = 8080", "both 8080"),
        ("type = 'dicom'\nport = 18945\n[[sources]]\nport = 18945", "both 18945"),
        ("type = 'video'\ndevice = '0'\ngamma = 0.0", "gamma"),
        ("type = 'video'\ndevice = '0'\nblack = 200\nwhite = 100", "black must be below white"),
        ("type = 'video'\ndevice = '0'\nregion = [0, 0, 4, 4]", "at least 8 pixels"),
        ("type = 'video'\ndevice = '0'\nwidth_px = 640", "both or none"),
        ("type = 'video'\ndevice = '0'\ndelay_ms = inf", "finite"),
        ("type = 'dicom'\ntls = {certificat = 'a', key = 'b', authorities = 'c'}", "did you mean 'certificate'"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse("[[sources]]\n" + text)
    assert "node.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_files_and_folders_lie_beside_the_configuration(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(
        MINIMAL
        + "[[sources]]\ntype = 'dicom'\nstore = 'cts'\n[[sources]]\ntype = 'video'\ndevice = 'run.avi'\n"
        + "[[sources]]\ntype = 'video'\ndevice = '/dev/video0'\nport = 18949\n"
        + "[[sources]]\ntype = 'video'\ndevice = 'rtsp://user:secret@host/1'\nport = 18950\n"
    )
    dicom, file, card, stream = config.load(path).sources
    assert dicom.store == str(tmp_path / "cts") and file.device == str(tmp_path / "run.avi")
    assert card.device == "/dev/video0" and stream.device == "rtsp://user:secret@host/1"


def test_what_is_shown_of_an_address_keeps_its_secrets():
    stream = parse("[[sources]]\ntype = 'video'\ndevice = 'rtsp://user:p@ss@host/live?token=secret'").sources[0]
    assert stream.shown == "rtsp://host/live"
