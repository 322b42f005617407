"""Object detection: Fast R-CNN on regions that were proposed."""
