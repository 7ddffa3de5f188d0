"""Loggers of a training run: run folder, TensorBoard, tracking services."""
