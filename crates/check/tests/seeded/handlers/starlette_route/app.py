from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import shell


async def version(request):
    return PlainTextResponse(shell.run("git describe"))


app = Starlette(routes=[Route("/version", version)])
