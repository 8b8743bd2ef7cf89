import json
from pathlib import Path
from time import sleep


class DiskCache:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __setitem__(self, key: str, value: object) -> None:
        lock = self.root / f"{key}.lock"
        while lock.exists():
            sleep(0.01)  # BUG: LW101
        lock.touch()
        (self.root / key).write_text(json.dumps(value))
        lock.unlink()


class Renderer:
    def __init__(self, cache: DiskCache) -> None:
        self.cache = cache

    async def render(self, name: str, template) -> str:
        html = await template.render_async()
        self.cache[name] = html
        return html
