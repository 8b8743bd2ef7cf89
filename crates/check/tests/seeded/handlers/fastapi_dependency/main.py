from typing import Annotated

from fastapi import APIRouter, Depends

from tokens import decode

router = APIRouter()


async def current_user(token: str) -> dict:
    return decode(token)


@router.post("/orders")
async def create_order(user: Annotated[dict, Depends(current_user)], body: dict) -> dict:
    return {"by": user["name"], **body}
