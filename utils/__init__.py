"""OpenYOLOv5 without the networks: data, losses, metrics, tasks, training and inference."""
