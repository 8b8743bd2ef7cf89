from aiohttp import web

from upstream import fetch

routes = web.RouteTableDef()


@routes.get("/users/{id}")
async def user(request: web.Request) -> web.Response:
    return web.json_response(await fetch(f"/users/{request.match_info['id']}"))
