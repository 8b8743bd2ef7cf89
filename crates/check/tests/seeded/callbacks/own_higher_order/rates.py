import urllib.request

from retry import with_retries


def download(url: str) -> bytes:
    return urllib.request.urlopen(url, timeout=5).read()  # BUG: LW101


async def refresh(state) -> None:
    state.rates = with_retries(download, "http://rates.internal/latest")
