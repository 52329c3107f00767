"""What is said by logs."""

import logging

from navnode.commands.logs import RateLimit, only_errors_of


def test_what_is_logged_again_and_again_is_said_sparingly():
    limit = RateLimit()
    log, shown, created = logging.getLogger("sparingly"), [], 1_000.0

    def tell(number: int, place: int, at_s: float) -> None:
        record = log.makeRecord("n", logging.WARNING, "file.py", place, "frame %d failed", (number,), None)
        record.created = at_s
        if limit.filter(record):
            shown.append(record.getMessage())

    for number in range(100):
        tell(number, 1, created)
    tell(0, 2, created)
    assert len(shown) == 6
    tell(100, 1, created + 6)
    assert shown[-1] == "frame 100 failed (and 95 more like this)"


def test_warnings_of_a_package_are_left_out_for_a_while(caplog):
    log = logging.getLogger("navnode.igtl.server")
    with only_errors_of("navnode.igtl"):
        log.warning("said in other words")
        log.error("said")
    log.warning("heard again")
    assert [record.message for record in caplog.records] == ["said", "heard again"]
