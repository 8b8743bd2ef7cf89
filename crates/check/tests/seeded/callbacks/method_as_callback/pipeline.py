import urllib.request


class Enricher:
    def __init__(self, base: str) -> None:
        self.base = base

    def enrich(self, row: dict) -> dict:
        row["geo"] = urllib.request.urlopen(f"{self.base}/{row['ip']}").read()  # BUG: LW101
        return row


def transform(rows, steps):
    for row in rows:
        for step in steps:
            row = step(row)
        yield row


async def ingest(rows: list[dict]) -> list[dict]:
    enricher = Enricher("http://geo.internal")
    return list(transform(rows, [enricher.enrich, dict]))
