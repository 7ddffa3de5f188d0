"""Listeners that keep a training run's numbers and images: in its folder, in TensorBoard, in tracking services."""
