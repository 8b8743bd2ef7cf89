import urllib.request


def lengths(urls):
    for url in urls:
        yield len(urllib.request.urlopen(url).read())  # BUG: LW101


async def total(urls):
    return sum(lengths(urls))
