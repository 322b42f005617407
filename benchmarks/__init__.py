"""Measurements that anyone can repeat: see `benchmarks/README.md`."""
