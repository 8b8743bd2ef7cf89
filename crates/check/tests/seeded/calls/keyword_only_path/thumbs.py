"""The blocking branch is taken for some arguments only."""
import shutil
from pathlib import Path


def place(source: Path, target: Path, *, link: bool = True) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source)
    else:
        shutil.copytree(source, target)  # BUG: LW101
    return target


async def publish(album: Path, public: Path) -> Path:
    return place(album, public / album.name, link=False)
