import logging
import shutil
from functools import lru_cache, wraps

log = logging.getLogger(__name__)


def logged(fn):
    @wraps(fn)
    def inner(*a, **kw):
        log.info("%s%r", fn.__name__, a)
        return fn(*a, **kw)

    return inner


def checked(fn):
    @wraps(fn)
    def inner(path, *a, **kw):
        if ".." in path:
            raise ValueError(path)
        return fn(path, *a, **kw)

    return inner


@lru_cache(maxsize=128)
@logged
@checked
def archive(path):
    return shutil.make_archive(path, "zip", path)  # BUG: LW101


async def download(request):
    return archive(request.match_info["name"])
