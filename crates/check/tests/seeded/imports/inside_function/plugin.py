async def export(rows, path):
    from writers import write_rows

    await rows.ready()
    write_rows(rows.all(), path)
