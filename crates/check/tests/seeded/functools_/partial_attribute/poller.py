import functools
import urllib.request


def fetch(base, path):
    return urllib.request.urlopen(base + path).read()  # BUG: LW101


class Weather:
    def __init__(self, base):
        self._fetch = functools.partial(fetch, base)

    async def tomorrow(self, city):
        return self._fetch(f"/forecast/{city}")
