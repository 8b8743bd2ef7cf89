import subprocess
from contextlib import ExitStack


class Mounted:
    def __init__(self, image: str) -> None:
        self.image = image

    def __enter__(self) -> str:
        subprocess.check_call(["mount", "-o", "loop", self.image, "/mnt"])  # BUG: LW101
        return "/mnt"

    def __exit__(self, *exc) -> None:
        self.image = ""


async def inspect(images: list[str], look) -> None:
    with ExitStack() as stack:
        for image in images:
            where = stack.enter_context(Mounted(image))
            await look(where)
