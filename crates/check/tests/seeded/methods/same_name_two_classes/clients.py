import asyncio
import http.client


class AsyncInventory:
    async def stock(self, sku: str) -> int:
        reader, writer = await asyncio.open_connection("inventory", 9000)
        writer.write(sku.encode() + b"\n")
        line = await reader.readline()
        writer.close()
        return int(line)


class Inventory:
    def stock(self, sku: str) -> int:
        connection = http.client.HTTPConnection("inventory", 8080)
        connection.request("GET", f"/stock/{sku}")  # BUG: LW101
        return int(connection.getresponse().read())
