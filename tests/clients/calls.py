"""The calls of tests/clients.rs by a Python client: `calls.py CLIENT SERVER BODY_FILE`.

Prints a list of `[name, status, SHA-256 of the body, content-length]` as JSON; the length for HEAD only.
"""

import asyncio
import hashlib
import io
import json
import sys

PIECE = 10_000


def pieces(data):
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def plan(body):
    """Name, method, path, fields, body, and how it is sent."""
    small = b'{"model":"m","input":"x"}'
    json_type = {"content-type": "application/json"}
    expect = {"expect": "100-continue", **json_type}
    yield from ((f"kept {n}", "GET", f"/v1/models/{n}", {}, None, None) for n in range(3))
    yield "small", "POST", "/v1/embeddings", json_type, small, "length"
    yield "length", "POST", "/v1/embeddings", json_type, body, "length"
    yield "chunked", "POST", "/v1/files", {}, body, "chunked"
    yield "chunked json", "POST", "/v1/embeddings", json_type, body, "chunked"
    yield "expect", "POST", "/v1/embeddings", expect, body, "length"
    yield "expect streamed", "POST", "/v1/files", expect, body, "length"
    yield "head", "HEAD", "/v1/models/large", {}, None, None
    yield "large", "GET", "/v1/models/large", {}, None, None
    yield "nothing", "DELETE", "/v1/models/0", {}, None, None
    yield "missing", "GET", "/v1/missing", {}, None, None


def result(name, method, status, data, fields):
    length = fields.get("content-length") if method == "HEAD" else None
    return [name, status, hashlib.sha256(data).hexdigest(), length]


def with_httpx(server, body):
    import httpx

    with httpx.Client(timeout=60) as client:
        for name, method, path, fields, data, how in plan(body):
            content = iter(pieces(data)) if how == "chunked" else data
            answer = client.request(method, server + path, headers=fields, content=content)
            yield result(name, method, answer.status_code, answer.content, answer.headers)


def with_requests(server, body):
    import requests

    with requests.Session() as client:
        for name, method, path, fields, data, how in plan(body):
            content = iter(pieces(data)) if how == "chunked" else data
            answer = client.request(method, server + path, headers=fields, data=content, timeout=60)
            yield result(name, method, answer.status_code, answer.content, answer.headers)


async def all_with_aiohttp(server, body):
    import aiohttp

    async def stream(data):
        for piece in pieces(data):
            yield piece

    results = []
    async with aiohttp.ClientSession() as client:
        for name, method, path, fields, data, how in plan(body):
            content = stream(data) if how == "chunked" else data and io.BytesIO(data)
            expects = fields.pop("expect", None) is not None
            call = client.request(method, server + path, headers=fields, data=content, expect100=expects)
            async with call as answer:
                results.append(result(name, method, answer.status, await answer.read(), answer.headers))
    return results


def with_aiohttp(server, body):
    return asyncio.run(all_with_aiohttp(server, body))


client, server, file = sys.argv[1:]
with open(file, "rb") as source:
    body = source.read()
print(json.dumps(list({"httpx": with_httpx, "requests": with_requests, "aiohttp": with_aiohttp}[client](server, body))))
