from repo import UserRepository


async def login(users: UserRepository, name: str) -> str:
    user = users.by_name(name)
    if user is None:
        raise LookupError(name)
    return f"welcome {user.name}"
