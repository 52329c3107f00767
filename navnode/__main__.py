"""``python -m navnode`` is the ``navnode`` command."""

from navnode.cli import main

main()
