import json
import urllib.request


class Query:
    def __init__(self, base: str):
        self._base = base
        self._terms: list[str] = []

    def term(self, word: str) -> "Query":
        self._terms.append(word)
        return self

    def run(self) -> "Hits":
        url = f"{self._base}?q={'+'.join(self._terms)}"
        return Hits(json.load(urllib.request.urlopen(url)))  # BUG: LW101


class Hits:
    def __init__(self, raw: dict):
        self.raw = raw

    def top(self, n: int) -> list[dict]:
        return self.raw["hits"][:n]


async def complete(prefix: str) -> list[dict]:
    return Query("http://search.internal/v1").term(prefix).term("lang:en").run().top(5)
