"""Listeners that keep a training run's numbers and pictures: in its folder, in TensorBoard, in tracking services."""
