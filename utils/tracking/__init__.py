"""Multi-object tracking: boxes of successive frames become tracks with ids."""
