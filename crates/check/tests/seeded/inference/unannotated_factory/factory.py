import urllib.request


class Api:
    def __init__(self, base):
        self.base = base

    def me(self):
        return urllib.request.urlopen(self.base + "/me").read()  # BUG: LW101


def make_api(environment):
    base = "http://api.internal" if environment == "prod" else "http://localhost:8000"
    api = Api(base)
    return api
