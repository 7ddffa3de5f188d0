"""Validation of a model on a split."""
