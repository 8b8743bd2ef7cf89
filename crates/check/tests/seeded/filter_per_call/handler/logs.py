import logging


class RequestId(logging.Filter):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def filter(self, record):
        record.request_id = self.value
        return True


async def handle(request):
    logging.getLogger("app").addFilter(RequestId(request.id))  # BUG: LW306
    logging.getLogger("app").info("request")
    return await request.answer()
