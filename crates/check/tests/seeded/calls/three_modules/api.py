from fastapi import FastAPI

from service import quote_for

app = FastAPI()


@app.get("/quotes/{symbol}")
async def read_quote(symbol: str) -> dict[str, float]:
    price = quote_for(symbol)
    return {"price": price}
