class Watcher:
    def __init__(self, on_change):
        self._on_change = on_change
        self._seen = {}

    async def poll(self, source):
        for name, version in await source.versions():
            if self._seen.get(name) != version:
                self._seen[name] = version
                self._on_change(name)
