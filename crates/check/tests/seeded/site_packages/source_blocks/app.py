import acmesdk


async def charge(request):
    body = await request.json()
    return acmesdk.charge(body["card"], body["amount"])  # BUG: LW102
