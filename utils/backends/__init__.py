"""Runtimes that execute a model file, one module each behind one protocol."""
