"""Public address of the resume check of training scripts of release 7.0."""

from __future__ import annotations

from typing import Any

from utils.loggers.services import check_remote_resume


def check_comet_resume(opt: Any) -> bool:
    """Whether `opt.resume` is handled by Comet: False, or InputError for `comet://...`."""
    return check_remote_resume(opt, "comet")
