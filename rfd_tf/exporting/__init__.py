"""Feature models as files that others can run."""
