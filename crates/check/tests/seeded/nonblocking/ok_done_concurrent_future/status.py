from concurrent.futures import Future, ThreadPoolExecutor

pool = ThreadPoolExecutor()


def status(job: Future) -> str:
    if not job.done():
        return "running"
    return f"done: {job.result()}"  # OK: it is done


async def poll(request):
    return status(request.app["jobs"][request.query["id"]])
