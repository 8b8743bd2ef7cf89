def read(open, path):
    with open(path) as handle:  # OK: what was passed
        return handle.data


class Handle:
    def __init__(self, path):
        self.data = path

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


async def load(path):
    return read(Handle, path)
