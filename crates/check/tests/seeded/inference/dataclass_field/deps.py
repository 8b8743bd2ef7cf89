import urllib.request
from dataclasses import dataclass


class Flags:
    def enabled(self, name: str) -> bool:
        return urllib.request.urlopen(f"http://flags.internal/{name}").read() == b"1"  # BUG: LW101


@dataclass
class Deps:
    flags: Flags
    region: str = "eu"


async def handler(deps: Deps, body: dict) -> dict:
    if deps.flags.enabled("new-pricing"):
        body["pricing"] = "new"
    return body
