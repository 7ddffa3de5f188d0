"""Inference on images and streams: predictor, results, writers, hub model."""
