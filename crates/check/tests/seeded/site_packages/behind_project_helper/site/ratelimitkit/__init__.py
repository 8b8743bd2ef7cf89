import time

_next = {}


def wait_for_token(host, rate):
    now = time.monotonic()
    at = _next.get(host, now)
    if at > now:
        time.sleep(at - now)
    _next[host] = at + 1 / rate
