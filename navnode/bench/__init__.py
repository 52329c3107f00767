"""``navnode bench``: figures for this machine, compared with other implementations in the same run."""
