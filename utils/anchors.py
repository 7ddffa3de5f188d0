"""Anchor search for a data set: `python -m utils.anchors` (see utils/datasets/tools/anchors.py)."""

from __future__ import annotations

if __name__ == "__main__":
    from utils.core.script import run_script
    from utils.datasets.tools.anchors import main

    run_script(main)
