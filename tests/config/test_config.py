import tomllib
from pathlib import Path

import msgspec
import pytest

from navnode import config
from navnode.errors import ConfigError

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
MINIMAL = """
[carm]
width_px = 512
height_px = 512
pixel_spacing_mm = [0.6, 0.6]
source_to_detector_mm = 1000.0
principal_point_px = [255.5, 255.5]
"""


def parse(text: str) -> config.Config:
    return config.parse(tomllib.loads(MINIMAL + text), "node.toml")


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.toml")), ids=lambda path: path.name)
def test_what_is_shipped_loads(path):
    if path.name == "gpu-worker.toml":
        assert config.load_worker(path).node
        return
    loaded = config.load(path)
    assert loaded.tools and loaded.sources


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("carms/*.toml")), ids=lambda path: path.name)
def test_a_shipped_preset_is_found_by_its_name(path):
    assert config.preset(path) == config.preset(f"carms/{path.name}")


def test_a_workers_configuration_is_named_as_one():
    with pytest.raises(ConfigError, match="a worker's configuration, for `navnode worker`"):
        config.load(LAUNCH / "gpu-worker.toml")


def test_defaults_suffice():
    loaded = parse("")
    assert loaded.console.port == 18944 and loaded.console.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[console]\nprot = 1", r"unknown key 'console.prot' \(did you mean 'port'\?\)"),
        ("[consol]\nport = 1", r"unknown key 'consol' \(did you mean 'console'\?\)"),
        ("[registration]\nconfirm_frame = 3", "confirm_frames"),
        ("[[tools]]\nname='Drill'\ndevise='x'", r"did you mean 'device'"),
        ("[console]\nport = 'high'", "console.port"),
        ("[[tools]]\nname='Drill'", "device' is missing"),
        ("[console]\nhost = '0.0.0.0'", "insecure"),
        ("[reconstruction]\nviews = 1", "reconstruction.*views"),
        ("[[tools]]\nname='Two Words'\ndevice='x'", "letters and digits"),
        ("[calibration]\ncarm_from_marker = [[2.0,0,0,0],[0,1.0,0,0],[0,0,1.0,0],[0,0,0,1.0]]", "rigid"),
        ("[calibration]\ncarm_from_marker = [[nan,0,0,0],[0,1.0,0,0],[0,0,1.0,0],[0,0,0,1.0]]", "finite"),
        ("[[tools]]\nname='A'\ndevice='x'\n[[tools]]\nname='A'\ndevice='y'", "same name"),
        ("[[tools]]\nname='A'\ndevice='x'\n[[tools]]\nname='B'\ndevice='x'", "'x' is named twice"),
        ("[[sources]]\nport=7\n[[sources]]\nport=7", "source 127.0.0.1:7 is named twice"),
        ("[[tools]]\nname='Patient'\ndevice='x'", "two outputs would be called .PatientToVolume"),
        ("[registration]\nvalid_sigma_mm = nan", "registration.valid_sigma_mm: must be a finite"),
        ("[registration]\nvalid_sigma_mm = 4.5", "at most degraded_sigma_mm"),
        ("[console]\nport = 70000", "console.port"),
        ("[reconstruction]\nspacing_mm = 0.0", "spacing_mm"),
        ("[reconstruction]\nenabled = false", "there would never be a volume"),
        ("[[sources]]\nport = 18944", "console.port and a source's port are both 18944"),
        ("[display]\nport = 18944", "console.port and display.port are both 18944"),
        ("[devices]\nxray = ''", "devices.xray"),
        ("[outputs]\nvolume = 'XRay'", "two outputs would be called 'XRay'"),
        ("[console]\nmax_rate_hz = -1.0", "console.max_rate_hz"),
        ("[console]\ntls = {certificate = 'a', key = 'b'}", "console.tls.*authorities"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert "node.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_the_users_consent_opens_other_addresses():
    assert parse("[console]\nhost = '0.0.0.0'\ninsecure = true").console.host == "0.0.0.0"


def test_tls_opens_other_addresses_and_its_files_lie_beside_the_configuration(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(
        MINIMAL
        + "[console]\nhost = '0.0.0.0'\n[console.tls]\ncertificate = 'a.pem'\nkey = '/b.pem'\nauthorities = 'c.pem'"
    )
    tls = config.load(path).console.tls
    assert tls.certificate == str(tmp_path / "a.pem") and tls.key == "/b.pem"


def test_broken_and_missing_files(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[carm\n")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        config.load(broken)
    with pytest.raises(ConfigError, match="no such configuration"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="a folder, not a configuration file"):
        config.load(tmp_path)


def test_a_mark_that_editors_put_before_the_text_is_no_key(tmp_path):
    marked = tmp_path / "marked.toml"
    marked.write_bytes(b"\xef\xbb\xbf" + config.shipped("plus.toml").read_bytes())
    assert config.load(marked).tools == config.load("plus.toml").tools


def test_a_missing_file_is_never_replaced_by_a_shipped_one(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration"):
        config.load(tmp_path / "plus.toml")
    assert config.load("plus.toml").tools


def test_a_relative_ct_lies_beside_its_configuration(tmp_path):
    (tmp_path / "node.toml").write_text(MINIMAL + "[volume]\nct = 'patient/ct.nii.gz'")
    assert config.load(tmp_path / "node.toml").volume.ct == str(tmp_path.resolve() / "patient" / "ct.nii.gz")


def test_keys_of_older_versions_are_read_as_what_they_are_called_now():
    loaded = parse("[calibration]\nlatency = 'lag.json'\n[recording]\nreplayed_ns = 5")
    assert loaded.calibration.image_lag == "lag.json" and loaded.calibration.as_of_ns == 5
    with pytest.raises(ConfigError, match=r"calibration\.latency is now called calibration\.image_lag"):
        parse("[calibration]\nlatency = 'a.json'\nimage_lag = 'b.json'")


def test_a_configuration_kept_in_a_session_is_read_and_what_is_none_is_named():
    kept = msgspec.to_builtins(config.load("demo.toml"))
    kept["calibration"]["latency"] = kept["calibration"].pop("image_lag")
    assert config.decode(msgspec.json.encode(kept), "configuration.json") == config.load("demo.toml")
    for content in (b"", b"[1]", b"{}", b'{"calibration": 5, "carm": {}}'):
        with pytest.raises(ConfigError, match=r"configuration\.json"):
            config.decode(content, "configuration.json")
