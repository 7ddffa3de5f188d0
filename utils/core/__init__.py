"""Foundations without vision: types, errors, logging, files, devices, processes, downloads."""
