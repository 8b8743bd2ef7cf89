import telemetry


class Handler:
    def __init__(self):
        self.exporter = telemetry.Exporter("http://collector")

    async def handle(self, span):
        self.exporter.export([span])  # BUG: LW102
