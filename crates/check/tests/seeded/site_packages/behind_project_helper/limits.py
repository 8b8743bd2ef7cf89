from ratelimitkit import wait_for_token


def take(host: str) -> None:
    if host != "localhost":
        wait_for_token(host, rate=5)  # BUG: LW102
