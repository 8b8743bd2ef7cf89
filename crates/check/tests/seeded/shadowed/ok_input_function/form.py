def input(name, value=""):
    return f'<input name="{name}" value="{value}">'


def row(name):
    return f"<p>{input(name)}</p>"  # OK: HTML


async def form(request):
    return "".join(row(name) for name in ("user", "mail"))
