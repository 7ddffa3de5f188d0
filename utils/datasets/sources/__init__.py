"""Inputs of detect.py: files, folders, streams and the screen."""
