"""What every run shares, and the runs themselves: pretraining, probes, rotation probabilities, sweeps."""
