"""Hyperparameter evolution."""
