"""``navnode bench``: figures for this machine, beside other implementations in the same run."""
