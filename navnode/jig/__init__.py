"""A jig of steel beads beside a limb: ordinary X-rays that show it have a known geometry."""

from navnode.jig.cleared import without_beads
from navnode.jig.layout import Jig, jig_for, read_jig, write_jig
from navnode.jig.located import Located, locate, why_unfound

__all__ = ["Jig", "Located", "jig_for", "locate", "read_jig", "why_unfound", "without_beads", "write_jig"]
