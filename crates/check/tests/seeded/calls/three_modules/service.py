import upstream

FEE = 0.02


def quote_for(symbol: str) -> float:
    raw = upstream.fetch_price(symbol.upper())
    return raw * (1 + FEE)
