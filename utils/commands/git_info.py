"""State of the checkout, as the training scripts name it."""

from __future__ import annotations

from utils.general import check_git_info

GIT_INFO = check_git_info()
