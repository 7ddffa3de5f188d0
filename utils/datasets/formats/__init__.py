"""Annotation formats of other programs, read into an `ImageIndex` for each split and written from them."""
