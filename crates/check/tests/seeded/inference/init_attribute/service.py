import http.client


class Gateway:
    def charge(self, cents):
        connection = http.client.HTTPSConnection("pay.internal")
        connection.request("POST", "/charge", body=str(cents))  # BUG: LW101
        return connection.getresponse().status


class Checkout:
    def __init__(self, gateway=None):
        self.gateway = gateway or Gateway()

    async def pay(self, cart):
        total = await cart.total()
        return self.gateway.charge(total)
