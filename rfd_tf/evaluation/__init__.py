"""Measuring what features are worth."""
