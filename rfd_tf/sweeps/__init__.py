"""Tables of experiments over seeds: what `rfd sweep` runs and what it makes of the results."""
