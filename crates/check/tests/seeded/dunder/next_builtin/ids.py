import urllib.request


class IdBlock:
    """Numbers handed out by a central service, one request each."""

    def __iter__(self):
        return self

    def __next__(self) -> int:
        return int(urllib.request.urlopen("http://ids.internal/next").read())  # BUG: LW101


ids = IdBlock()


async def create(body: dict) -> dict:
    return {"id": next(ids), **body}
