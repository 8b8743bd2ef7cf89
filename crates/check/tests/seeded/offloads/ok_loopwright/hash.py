import hashlib

from loopwright import offload


def derive(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1)


async def sign_up(form):
    return await offload(derive, form["password"].encode(), b"salt")  # OK: offloaded
