"""Downloads a single file from the Hugging Face hub."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from outpace.models.catalog import CatalogModel
from outpace.models.sources import SourceError
from outpace.progress import follow_files

TIMEOUT = 5.0  # seconds until the hub counts as unreachable
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def download(model: CatalogModel, work: Path, show: Callable[[float], None]) -> Path:
    """Download the file into the folder `work` and return its path. `show` receives the number of bytes so far. Raises SourceError.

    The checksum is compared with the hub's metadata first, so that a different file is never downloaded.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise SourceError("HF_HUB_OFFLINE is set")
    were_disabled = are_progress_bars_disabled()
    try:
        found = get_hf_file_metadata(hf_hub_url(model.repository, model.file), timeout=TIMEOUT)
        if found.etag != model.sha256:  # the etag of a large file is its SHA-256 checksum
            raise SourceError(f"{model.repository} has another {model.file}")
        disable_progress_bars()
        with follow_files(work, show):
            return Path(hf_hub_download(model.repository, model.file, local_dir=work / "hub", etag_timeout=TIMEOUT))
    except SourceError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise SourceError(f"{model.repository} answers {status or _first_line(error)}") from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise SourceError("cannot be reached") from error
    except Exception as error:  # errors of the HTTP library, which differs between versions of huggingface_hub
        raise SourceError(f"cannot be reached ({type(error).__name__})") from error
    finally:
        if not were_disabled:
            enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
