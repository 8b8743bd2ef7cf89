import pickle
from pathlib import Path


class FileStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, key: str, value: object) -> None:
        self.root.joinpath(key).write_bytes(pickle.dumps(value))  # BUG: LW101


class CountingStore(FileStore):
    saves = 0

    def save(self, key: str, value: object) -> None:
        self.saves += 1
        super().save(key, value)


class PrefixedStore(CountingStore):
    def save(self, key: str, value: object) -> None:
        super().save(f"v2-{key}", value)


async def checkpoint(store: PrefixedStore, state: dict[str, int]) -> None:
    for key, value in state.items():
        store.save(key, value)
