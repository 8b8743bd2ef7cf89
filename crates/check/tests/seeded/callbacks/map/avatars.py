import urllib.request


def size_of(url):
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request) as answer:  # BUG: LW101
        return int(answer.headers["content-length"])


async def total(urls):
    return sum(map(size_of, urls))
