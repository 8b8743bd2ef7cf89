from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(4)


def paint(shape):
    return shape * 2


class Renderer:
    async def render(self, shapes):
        futures = [pool.submit(paint, shape) for shape in shapes]
        return [future.result() for future in futures]  # BUG: LW101
