"""Preparation of published and generated data sets."""
