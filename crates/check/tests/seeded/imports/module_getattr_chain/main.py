import services


async def probe(name):
    return services.clients.http.get(services.registry.NAMES[name])
