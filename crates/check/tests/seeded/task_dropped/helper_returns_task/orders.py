from background import in_background


async def send_receipt(order):
    await order.mail("receipt")


async def place(order):
    await order.save()
    in_background(send_receipt(order), name="receipt")  # BUG: LW202
    return order.id
