"""`python -m utils.anchors`: anchors that suit a data set; the command is in utils/datasets/tools/anchors.py."""

from __future__ import annotations

if __name__ == "__main__":
    from utils.core.script import run_script
    from utils.datasets.tools.anchors import main

    run_script(main)
