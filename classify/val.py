"""Validate a classifier: `python classify/val.py --weights best.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import val; top1, top5, loss = val.run(weights="best.pt", data="imagenette160")`.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial
from typing import Any

import val
from utils.config.classify import ClassifyValConfig
from utils.core.script import run_script

main = partial(val.main, kind=ClassifyValConfig)


def run(**options: Any) -> tuple[float, float, float]:
    """Top-1 accuracy, top-5 accuracy and loss; options as keyword arguments with underscores."""
    top1, top5, loss = val.run(ClassifyValConfig, **{"half": False, **options})[0]
    return top1, top5, loss


if __name__ == "__main__":
    run_script(main)
