import asyncio
import functools


def logged(fn):
    @functools.wraps(fn)
    def inner(*args):
        print(fn.__name__)
        return fn(*args)

    return inner


@logged
async def notify(user):
    await asyncio.sleep(0)
    return user


def notify_admin():
    return notify("admin")


async def close(ticket):
    ticket.open = False
    notify_admin()  # BUG: LW201
    await ticket.save()
