import requests


def new_session():
    session = requests.Session()
    session.headers.update({"user-agent": "acme"})
    return session


class Downloads:
    def __init__(self):
        self._session = new_session()

    def head(self, url):
        return self._session.head(url).headers  # BUG: LW101

    async def size(self, url):
        return int(self.head(url)["content-length"])
