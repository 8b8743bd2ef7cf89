import asyncio
import time
import urllib.request


def wait_for_database():
    for _ in range(30):
        try:
            return urllib.request.urlopen("http://db.internal/health").status
        except OSError:
            time.sleep(1)
    raise SystemExit("no database")


async def serve():
    await asyncio.Event().wait()


def main():
    wait_for_database()  # OK: the loop does not run yet
    asyncio.run(serve())


if __name__ == "__main__":
    main()
