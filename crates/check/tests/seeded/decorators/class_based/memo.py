import pickle
from pathlib import Path


class persisted:
    """Keeps results in a file, across runs."""

    def __init__(self, fn):
        self.fn = fn
        self.path = Path(f"/var/cache/{fn.__name__}.pickle")

    def __call__(self, *args):
        if self.path.exists():
            return pickle.loads(self.path.read_bytes())
        value = self.fn(*args)
        self.path.write_bytes(pickle.dumps(value))
        return value


@persisted
def exchange_rates():
    import urllib.request

    return urllib.request.urlopen("http://rates.internal/all").read()  # BUG: LW101


async def convert(amount):
    rates = exchange_rates()
    return amount * len(rates)
