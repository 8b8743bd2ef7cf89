import asyncio
import urllib.request


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Client:
    def get(self, url):
        if in_event_loop():
            return asyncio.to_thread(self._get, url)
        return self._get(url)

    def _get(self, url):
        return urllib.request.urlopen(url).read()


async def page(client: Client):
    return await client.get("http://a.internal")  # OK: the guard sends it to a thread
