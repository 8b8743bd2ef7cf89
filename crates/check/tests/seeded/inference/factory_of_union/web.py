import os

from cachelib import make

cache = make(os.environ.get("CACHE_DIR"))


async def page(request):
    return cache.load(request.path)
