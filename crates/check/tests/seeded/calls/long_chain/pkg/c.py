from pkg.d import grouped


def totals(account):
    result = grouped(account)
    return sorted(result.items())
