from dataclasses import replace

import msgspec
import numpy as np
import pytest

from navnode import config
from navnode.config import DoseSection
from navnode.errors import ConfigError
from navnode.igtl import Image
from navnode.igtl.conventions import DOSE_KEY
from navnode.loop.ingest import Ingest
from navnode.types import Dose, Frame
from navnode.xray.dose import Ledger

FRAME = Frame(np.zeros((4, 4), np.uint16), 1, 1)


def ledger_of(settings):
    return Ledger(**msgspec.structs.asdict(settings))


def test_what_the_source_states_is_added_up_beside_a_ct():
    ledger = ledger_of(DoseSection(msv_per_gy_cm2=0.2, ct_msv=8.0))
    for _ in range(4):
        ledger.add(replace(FRAME, dose_gy_cm2=0.5))
    total = ledger.total
    assert (total.frames, total.stated, total.gy_cm2) == (4, 4, pytest.approx(2.0))
    assert total.msv == pytest.approx(0.4) and total.ct_share == pytest.approx(0.05)
    assert str(total) == "4 X-rays, 2 Gy cm2: about 0.4 mSv, 5 % of a CT"


def test_what_is_not_known_is_not_made_up():
    ledger = ledger_of(DoseSection())
    assert str(ledger.total) == "no X-rays yet"
    ledger.add(FRAME)
    ledger.add(replace(FRAME, dose_gy_cm2=0.5))
    assert ledger.total.msv is None and ledger.total.ct_share is None
    assert str(ledger.total) == "2 X-rays; the source states no dose for 1, 0.5 Gy cm2 in the others"


def test_a_frame_that_came_before_its_metadata_is_taken_for_one_more():
    ledger = ledger_of(DoseSection())
    ledger.add(FRAME)
    for _ in range(19):
        ledger.add(replace(FRAME, dose_gy_cm2=0.1))
    assert ledger.total.gy_cm2 == pytest.approx(2.0) and ledger.total.stated == 19
    assert "partly estimated" in str(ledger.total)


def test_a_source_that_states_nothing_is_reckoned_with_as_configured():
    ledger = ledger_of(DoseSection(frame_gy_cm2=0.1))
    ledger.add(FRAME)
    ledger.add(replace(FRAME, dose_gy_cm2=0.3))
    assert ledger.total.gy_cm2 == pytest.approx(0.4) and "partly estimated" in str(ledger.total)


@pytest.mark.parametrize(
    ("stated", "gy_cm2"),
    [("5.5", 0.55), ("0", 0.0), ("", None), ("much", None), ("nan", None), ("-1", None), ("1e9", None)],
)
def test_metadata_are_believed_only_if_they_can_be_meant(stated, gy_cm2):
    ingest = Ingest(config.load("demo.toml"))
    image = Image(
        device="XRay",
        timestamp_ns=5,
        voxels=np.zeros((1, 8, 8), np.uint16),
        ras_from_index=np.eye(4),
        metadata={DOSE_KEY: stated} if stated else {},
    )
    frame = ingest(image, 7)
    assert isinstance(frame, Frame) and frame.dose_gy_cm2 == (None if gy_cm2 is None else pytest.approx(gy_cm2))


def test_a_ct_of_no_dose_is_refused():
    settings = msgspec.to_builtins(config.load("demo.toml"))
    with pytest.raises(ConfigError, match=r"dose\.ct_msv"):
        config.parse({**settings, "dose": {"ct_msv": 0}}, "demo.toml")


def test_the_dose_of_two_nodes_is_that_of_the_patient():
    one, other = Dose(3, 3, 0.1, 0.02, 0.002), Dose(2, 0, 0.3, 0.06, 0.006)
    assert one + other == Dose(5, 3, 0.4, 0.08, 0.008) == other + one
    unknown = Dose(4, 1, 0.1, None, None)
    assert one + unknown == Dose(7, 4, 0.2, None, None), "what one does not know is not known of both"
