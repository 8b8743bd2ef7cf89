import multiprocessing


def score(row):
    return sum(row)


def score_all(rows):
    with multiprocessing.Pool() as pool:
        return pool.map(score, rows)  # BUG: LW101


async def rank(request):
    rows = await request.json()
    return score_all(rows)
