"""Packs of training data: small, near enough to what they were made of, and checked when they are opened."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.reconstruction.training.packs import pack, unpack


def smooth(shape, rng, top):
    v, u = np.mgrid[-1 : 1 : shape[-2] * 1j, -1 : 1 : shape[-1] * 1j]
    bumps = [np.exp(-((u - rng.uniform(-0.5, 0.5)) ** 2 + v**2) * rng.uniform(1, 8)) for _ in range(shape[0])]
    return (top * np.stack(bumps)).astype(np.float16)


@pytest.fixture
def trained_in(tmp_path):
    """A training's folder with X-rays and bodies of five patients, one of them to validate on."""
    rng = np.random.default_rng(3)
    for name in ("bodies3d", "xrays"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for n, ending in enumerate(["validate", "train", "train", "train", "train"]):
        line, mm = smooth((4, 256, 256), rng, 6.0), smooth((4, 256, 256), rng, 80.0)
        x, y, z = np.mgrid[-1:1:32j, -1:1:32j, -1:1:32j]
        share = (255 * np.clip(8 * (0.5 - np.hypot(x, y)) + 0 * z, 0, 1)).astype(np.uint8)
        poses = rng.normal(size=(4, 4, 4))
        np.savez(tmp_path / f"run/xrays/limbs-p{n}-000.{ending}.npz", line=line, bone=mm, lungs=0 * mm)
        np.savez(tmp_path / f"run/bodies3d/limbs-p{n}-000.{ending}.npz", line=line, poses=poses, bone=share)
    return tmp_path / "run"


def test_what_is_unpacked_is_what_was_packed(trained_in, tmp_path):
    held = pack(trained_in, tmp_path / "data.pack", most_bytes=1 << 20)
    assert (held.bodies, held.xrays) == (5, 5)
    assert (tmp_path / "data.pack").stat().st_size < 0.2 * sum(f.stat().st_size for f in trained_in.rglob("*.npz"))
    assert unpack(tmp_path / "data.pack", tmp_path / "new") == held
    for original in trained_in.rglob("*.npz"):
        with np.load(original) as true, np.load(tmp_path / "new" / original.relative_to(trained_in)) as read:
            assert set(read.files) == set(true.files)
            for name in true.files:
                assert read[name].dtype == true[name].dtype and read[name].shape == true[name].shape
                error = np.abs(read[name].astype(float) - true[name])
                if name == "poses":
                    assert not error.any()
                elif true[name].dtype == np.uint8:
                    assert error.max() <= 9  # half a step of 1/15, in 1/255
                else:
                    assert error.mean() < 0.002 * max(float(true[name].max()), 1e-3)


def test_parts_share_patients_to_validate_on_and_nothing_else(trained_in, tmp_path):
    size = pack(trained_in, tmp_path / "all.pack", most_bytes=1 << 20, bodies_share=1.0) and sum(
        info.file_size for info in zipfile.ZipFile(tmp_path / "all.pack").infolist()
    )
    names = []
    for part in range(2):
        pack(trained_in, tmp_path / f"{part}.pack", most_bytes=int(0.65 * size), bodies_share=1.0, part=part)
        names.append({name for name in zipfile.ZipFile(tmp_path / f"{part}.pack").namelist() if "bodies" in name})
    shared = names[0] & names[1]
    assert {name.rsplit(".", 2)[1] for name in shared} == {"validate"}
    assert len(names[0]) > 1 and len(names[1]) > 1


@pytest.mark.parametrize("damage", ["text", "cut", "name", "shape"])
def test_a_damaged_pack_is_refused(trained_in, tmp_path, damage):
    path, whole = tmp_path / "bad.pack", tmp_path / "data.pack"
    pack(trained_in, whole, most_bytes=1 << 20)
    if damage == "text":
        path.write_text("not a pack")
    elif damage == "cut":
        path.write_bytes(whole.read_bytes()[:-300])
    else:
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if damage == "shape":
                    content = content.replace(b'"shape": [32, 32, 32]', b'"shape": [9999999]  ')
                new.writestr(f"xrays/../../{name}" if damage == "name" and "/" in name else name, content)
    with pytest.raises(ConfigError, match=str(path)):
        unpack(path, tmp_path / "new")
    assert not (tmp_path.parent / "bodies3d").exists()


@pytest.mark.parametrize(
    "index",
    ['{"a": 5}', "[1]", '{"a": {"shares": null, "shape": [2]}}', '{"a": {"images": [], "shape": "ab"}}', "[" * 100_000],
    ids=["number", "list", "null", "text", "deep"],
)
def test_a_pack_whose_values_are_not_what_their_names_say_is_refused(trained_in, tmp_path, index):
    path, whole = tmp_path / "bad.pack", tmp_path / "data.pack"
    pack(trained_in, whole, most_bytes=1 << 20)
    head = index.encode()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = len(head).to_bytes(4, "little") + head if "/" in name else old.read(name)
            new.writestr(name, content)
    with pytest.raises(ConfigError, match=str(path)):
        unpack(path, tmp_path / "out")


def test_a_rendered_file_that_is_damaged_is_named(trained_in, tmp_path):
    path = trained_in / "xrays" / "limbs-p0-000.validate.npz"
    for content in (b"", b"junk", path.read_bytes()[:2000]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=str(path)):
            pack(trained_in, tmp_path / "x.pack", most_bytes=1 << 24)
    assert not (tmp_path / "x.pack").exists()


def test_nothing_to_pack_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no rendered X-rays or bodies"):
        pack(tmp_path, tmp_path / "x.pack", most_bytes=1 << 20)
