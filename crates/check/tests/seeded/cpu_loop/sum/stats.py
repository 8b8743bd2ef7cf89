async def checksum(request):
    seed = int(request.query["seed"])
    return sum(i * i ^ seed for i in range(10_000_000))  # BUG: LW110
