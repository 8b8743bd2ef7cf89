import redis

store = redis.Redis(host="cache", decode_responses=True)


def session_of(token):
    return store.get(f"session:{token}")  # BUG: LW101


async def authenticate(request):
    user = session_of(request.cookies["sid"])
    if user is None:
        raise PermissionError
    return user
