import os

import boto3

s3 = boto3.client("s3", region_name="eu-west-1")
BUCKET = os.environ.get("BUCKET", "files")


def store(key: str, data: bytes) -> str:
    s3.put_object(Bucket=BUCKET, Key=key, Body=data)  # BUG: LW101
    return f"s3://{BUCKET}/{key}"


async def upload(request):
    return {"url": store(request.query["name"], await request.body())}
