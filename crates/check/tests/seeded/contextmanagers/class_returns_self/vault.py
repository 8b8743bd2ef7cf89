import urllib.request


class Vault:
    def __enter__(self):
        self.token = "t"
        return self

    def __exit__(self, *exc):
        self.token = None

    def read(self, name):
        request = urllib.request.Request(f"http://vault.internal/{name}", headers={"x-token": self.token})
        return urllib.request.urlopen(request).read()  # BUG: LW101


async def secret(name):
    with Vault() as vault:
        return vault.read(name)
