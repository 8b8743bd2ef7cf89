from corp.common.http import get_json


async def invoice(number):
    return get_json(f"/invoices/{number}")
