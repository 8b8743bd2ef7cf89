import bcrypt


def verify(password: str, hashed: bytes) -> bool:
    return bcrypt.checkpw(password.encode(), hashed)  # BUG: LW101


async def login(request, users):
    form = await request.form()
    user = await users.get(form["name"])
    if not verify(form["password"], user.password):
        raise PermissionError
    return user
