"""Training runs: from a config and a folder to a trained backbone."""
