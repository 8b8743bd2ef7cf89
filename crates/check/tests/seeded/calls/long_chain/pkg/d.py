from collections import Counter

from pkg.e import rows


def grouped(account):
    counter: Counter[str] = Counter()
    for kind, amount in rows("select kind, amount from entries where account = ?", account):
        counter[kind] += amount
    return counter
