import subprocess


def check_config(ctx: dict) -> None:
    ctx.setdefault("port", 8080)


def pull_images(ctx: dict) -> None:
    subprocess.run(["docker", "pull", ctx["image"]], check=True)  # BUG: LW101


STEPS = [check_config, pull_images]


async def redeploy(request) -> dict:
    ctx = await request.json()
    for step in STEPS:
        step(ctx)
    return ctx
