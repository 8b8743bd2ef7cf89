async def walk(client, cursor):
    rows = []
    while cursor:
        page = await client.page(cursor)  # OK: each needs the one before
        rows.extend(page.rows)
        cursor = page.next
    return rows


async def login(client, name):
    user = await client.user(name)
    return await client.session(user)  # OK
