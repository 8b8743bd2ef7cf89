import http.client
import json
from collections.abc import Iterator


class Pages:
    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.path = path

    def __iter__(self) -> Iterator[dict]:
        page = 1
        while True:
            connection = http.client.HTTPSConnection(self.host)
            connection.request("GET", f"{self.path}?page={page}")  # BUG: LW101
            items = json.loads(connection.getresponse().read())
            if not items:
                return
            yield from items
            page += 1


async def sync_issues(save) -> None:
    for issue in Pages("tracker.internal", "/issues"):
        await save(issue)
