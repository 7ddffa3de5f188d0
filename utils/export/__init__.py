"""Exporters: a table of formats, one module each, and the comparison of what they wrote with PyTorch."""
