import hashlib
import os


async def store(request, root):
    def target(digest):
        return os.path.join(root, digest[:2], digest)

    def save(data):
        digest = hashlib.sha256(data).hexdigest()
        with open(target(digest), "wb") as file:  # BUG: LW101
            file.write(data)
        return digest

    body = await request.read()
    return save(body)
