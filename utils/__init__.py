"""Everything of OpenYOLOv5 that is not a network: data, losses, metrics, tasks and the engine."""
