from tools import lookup


def plan(goal):
    return [lookup(word) for word in goal.split()]


async def act(goal):
    return plan(goal)
