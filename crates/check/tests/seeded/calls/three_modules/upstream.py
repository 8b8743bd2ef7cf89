import time

_prices = {"ACME": 10.0}


class NotReady(Exception):
    pass


def _lookup(symbol):
    if symbol not in _prices:
        raise NotReady(symbol)
    return _prices[symbol]


def fetch_price(symbol, attempts=3):
    for attempt in range(attempts):
        try:
            return _lookup(symbol)
        except NotReady:
            time.sleep(0.2 * 2**attempt)  # BUG: LW101
    raise NotReady(symbol)
