"""Address of `utils.downloads` in release 5.0 and before."""

from __future__ import annotations

from utils.downloads import attempt_download, gdrive_download, get_token, gsutil_getsize

__all__ = ["attempt_download", "gdrive_download", "get_token", "gsutil_getsize"]
