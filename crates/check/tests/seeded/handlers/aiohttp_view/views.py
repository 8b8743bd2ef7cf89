import sqlite3

from aiohttp import web


class Articles(web.View):
    def _query(self, sql: str) -> list:
        with sqlite3.connect("articles.db") as db:  # BUG: LW101
            return db.execute(sql).fetchall()  # BUG: LW101

    async def get(self) -> web.Response:
        rows = self._query("select * from articles")
        return web.json_response(rows)


app = web.Application()
app.add_routes([web.view("/articles", Articles)])
