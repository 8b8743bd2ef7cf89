import json
import urllib.request
from functools import cache


@cache
def tenant_config(tenant: str) -> dict:
    # one miss for each tenant, and each miss is in a request
    with urllib.request.urlopen(f"http://config.internal/{tenant}") as answer:  # BUG: LW101
        return json.load(answer)


async def handle(request) -> dict:
    config = tenant_config(request.headers["x-tenant"])
    return {"theme": config["theme"]}
