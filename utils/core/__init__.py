"""Foundations that know nothing of vision: types, errors, logging, files, devices, downloads, locks."""
