import time

from starlette.middleware.base import BaseHTTPMiddleware


class Slowdown(BaseHTTPMiddleware):
    def _penalty(self, request):
        if request.client.host in self.offenders:
            time.sleep(2)  # BUG: LW101

    def __init__(self, app):
        super().__init__(app)
        self.offenders = set()

    async def dispatch(self, request, call_next):
        self._penalty(request)
        return await call_next(request)
