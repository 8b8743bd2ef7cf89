import urllib.request

from metrics import timed


@timed("geo")
def country_of(address: str) -> str:
    with urllib.request.urlopen(f"http://geo.internal/{address}") as answer:  # BUG: LW101
        return answer.read().decode()


async def greet(request) -> str:
    return f"hello from {country_of(request.remote)}"
