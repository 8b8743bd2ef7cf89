from database import db


async def index(request):
    return db.all("select * from posts")
