"""Which errors of HTTP clients are worth another attempt, and what their servers wish.

For aiohttp and httpx, neither of which is imported: whoever has one of their errors has imported them already.
"""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["http_retry_after", "is_transient"]

TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses that say: not now. 500 is none of them, it says: not this request."""

WISHING = frozenset({429, 503})

_UNREACHED = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "httpx": ("TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"),
}


def is_transient(error: Exception) -> bool:
    """Whether an exception says that a request could not be made, broke off, or was turned away for the moment."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    for module, names in _UNREACHED.items():
        client = sys.modules.get(module)
        if client is not None and isinstance(error, tuple(getattr(client, name) for name in names)):
            return True
    return _status(error) in TRANSIENT


def http_retry_after(outcome: Any) -> float | None:
    """The seconds that a server wants to be left alone: the ``Retry-After`` of a status 429 or 503.

    For ``Retry(retry_after=...)``; :data:`http_errors` has it already.

    Args:
        outcome: an ``aiohttp.ClientResponseError`` or ``httpx.HTTPStatusError`` (what ``raise_for_status`` raises), or
            a response of either. Anything else has no wish.

    Returns:
        Seconds, 0.0 at the least: as the header says, or until its date by the clock of this machine. None when there
        is no such header, or none that can be read.
    """
    if _status(outcome) not in WISHING:
        return None
    headers = getattr(getattr(outcome, "response", None) or outcome, "headers", None)
    given = None if headers is None else headers.get("Retry-After")
    if not isinstance(given, str):
        return None
    if (number := given.strip()).isdecimal():
        return float(number)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 (a date is rare, and the import is not small)

    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _status(outcome: Any) -> int | None:
    """The status of a response, or of the error made of one."""
    response = getattr(outcome, "response", None) or outcome
    for name in ("status", "status_code"):
        if isinstance(status := getattr(response, name, None), int):
            return status
    return None
