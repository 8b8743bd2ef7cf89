from factory import make_api


def client():
    return make_api("prod")


async def whoami(request):
    api = client()
    return api.me()
