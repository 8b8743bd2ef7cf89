from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests


async def status(response: requests.Response) -> int:
    return response.status_code  # OK: an attribute


async def headers(response: requests.Response) -> dict:
    return dict(response.headers)  # OK
