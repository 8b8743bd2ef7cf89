import sqlite3


class Shard:
    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path)

    def write(self, key: str, value: bytes) -> None:
        self.db.execute("replace into kv values (?, ?)", (key, value))  # BUG: LW101


class Cluster:
    def __init__(self, paths: list[str]) -> None:
        self.shards = {i: Shard(path) for i, path in enumerate(paths)}

    async def write(self, key: str, value: bytes) -> None:
        self.shards[hash(key) % len(self.shards)].write(key, value)
