from db import session


async def names(request):
    with session() as s:
        return s.names()
