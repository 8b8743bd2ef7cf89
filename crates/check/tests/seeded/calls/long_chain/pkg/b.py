from pkg.c import totals


def summarise(account: int) -> str:
    return ", ".join(f"{k}={v}" for k, v in totals(account))
