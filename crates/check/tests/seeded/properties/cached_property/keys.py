import json
import urllib.request
from functools import cached_property


class KeySet:
    def __init__(self, issuer: str):
        self.issuer = issuer

    @cached_property
    def keys(self):
        with urllib.request.urlopen(f"{self.issuer}/.well-known/jwks.json") as answer:  # BUG: LW101
            return {key["kid"]: key for key in json.load(answer)["keys"]}


async def authenticate(headers, decode):
    key_set = KeySet("https://login.internal")
    kid = headers["x-key-id"]
    return await decode(headers["authorization"], key_set.keys[kid])
