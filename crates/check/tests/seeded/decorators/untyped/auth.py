import sqlite3


def audited(fn):
    def wrapper(*args, **kwargs):
        result = fn(*args, **kwargs)
        print("audit", fn.__name__)
        return result

    return wrapper


@audited
def grant(user, role):
    db = sqlite3.connect("roles.db")  # BUG: LW101
    db.execute("insert into roles values (?, ?)", (user, role))  # BUG: LW101
    db.commit()


async def promote(request):
    user = await request.json()
    grant(user["name"], "admin")
    return {"ok": True}
