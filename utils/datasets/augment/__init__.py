"""Augmentations of samples: mosaic, CutMix, random transforms, color."""
