import urllib.request


def read(host):
    return urllib.request.urlopen(f"http://{host}/state").read()


class Sensor:
    def __init__(self, hass, host):
        self.hass = hass
        self.host = host

    async def async_update(self):
        # OK: Home Assistant's executor
        self.state = await self.hass.async_add_executor_job(read, self.host)
