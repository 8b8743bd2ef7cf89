from ..core import secrets
from ..core.secrets import read_secret as _read


async def rotate(request):
    name = request.query["name"]
    if name == "all":
        return await request.app.rotate_all(secrets)
    return _read(name)
