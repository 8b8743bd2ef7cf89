import subprocess


class Children:
    def __init__(self):
        self.children = []

    def alive(self):
        return [child for child in self.children if child.poll() is None]  # OK: asks only

    def kill(self):
        for child in self.children:
            child.terminate()


async def health(children: Children):
    return {"alive": len(children.alive())}
