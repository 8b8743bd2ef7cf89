async def download(session, urls):
    pages = []
    for url in urls:
        pages.append(await session.fetch(url))  # BUG: LW403
    return pages
