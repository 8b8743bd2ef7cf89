import asyncio


async def poll(device, on_error):
    while device.connected:
        try:
            state = await device.read()
            await device.publish(state)
        except BaseException as error:  # BUG: LW204
            on_error(error)
        await asyncio.sleep(1)
