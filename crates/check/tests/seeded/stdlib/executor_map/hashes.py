from concurrent.futures import ProcessPoolExecutor


def digest(path):
    return hash(path)


class Deduplicator:
    def __init__(self):
        self.executor = ProcessPoolExecutor()

    def digests(self, paths):
        return list(self.executor.map(digest, paths))  # BUG: LW101

    async def unique(self, paths):
        return set(self.digests(paths))
