"""`python -m openyolov5 COMMAND`, the same as `openyolov5 COMMAND`."""

from __future__ import annotations

from openyolov5.cli import main

if __name__ == "__main__":
    main()
