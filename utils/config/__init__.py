"""Typed settings of every command, their flags, and hyperparameter files."""
