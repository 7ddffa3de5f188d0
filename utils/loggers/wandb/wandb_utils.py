"""Public address of the resume check of training scripts before release 7.0."""

from __future__ import annotations

from typing import Any

from utils.loggers.services import check_remote_resume


def check_wandb_resume(opt: Any) -> bool:
    """Whether `opt.resume` is handled by Weights & Biases: False, or InputError for `wandb-artifact://...`."""
    return check_remote_resume(opt, "wandb-artifact")
