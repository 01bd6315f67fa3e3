"""Makes one call of each kind with the official client and prints, as JSON, what an application would get back.

Usage: calls.py BASE_URL. Only the base URL differs between a run against the upstream and one through the proxy.
"""

import asyncio
import json
import sys
from urllib.parse import quote

import openai
import websockets

MESSAGES = [{"role": "user", "content": "Say hello. 日本語でも。"}]


def user(name):
    return {"X-User-ID": f"sdk-{name}"}


def dump(value):
    return value.to_dict()


def chat(client):
    return dump(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=user("chat")))


def chat_encoded(client):
    """A name beyond ASCII, as its header takes it: the call's own, percent-encoded."""
    encoded = {"X-User-ID*": "UTF-8''sdk-" + quote("太郎")}
    return dump(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=encoded))


def chat_raw(client):
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, extra_headers=user("chat_raw")
    )
    return [raw.status_code, raw.headers["x-request-id"], raw.headers["openai-processing-ms"], raw.text]


def chat_stream(name, **options):
    def call(client):
        stream = client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=user(name), **options
        )
        return [dump(chunk) for chunk in stream]

    return call


def completion(client):
    return dump(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hi", extra_headers=user("completion")))


def completion_stream(client):
    stream = client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Hi", stream=True, extra_headers=user("completion_stream")
    )
    return [dump(chunk) for chunk in stream]


def response(client):
    return dump(client.responses.create(model="gpt-4.1", input="Hi", extra_headers=user("response")))


def response_stream(client):
    stream = client.responses.create(model="gpt-4.1", input="Hi", stream=True, extra_headers=user("response_stream"))
    return [dump(event) for event in stream]


def embedding(client):
    return dump(
        client.embeddings.create(model="text-embedding-3-small", input="Hi", extra_headers=user("embedding"))
    )


def models(client):
    return [dump(model) for model in client.models.list(extra_headers=user("models"))]


def error(stream):
    def call(client):
        try:
            client.chat.completions.create(
                model="missing", messages=MESSAGES, stream=stream, extra_headers=user("error_stream" if stream else "error")
            )
        except openai.APIStatusError as e:
            return [type(e).__name__, e.status_code, e.code, e.body, e.request_id]
        raise AssertionError("no error was raised")

    return call


async def concurrent(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:

        async def one():
            stream = await client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=user("async")
            )
            return [dump(chunk) async for chunk in stream]

        return await asyncio.gather(*(one() for _ in range(10)))


TEXT = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}


def until(events, kind):
    """What a connection receives up to and with an event of this kind."""
    received = []
    for event in events:
        received.append(dump(event))
        if event.type == kind:
            return received
    raise AssertionError(f"no {kind}")


def realtime(client):
    with client.realtime.connect(model="gpt-realtime", extra_headers=user("realtime")) as connection:
        events = [dump(connection.recv())]
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        for _ in range(2):
            connection.conversation.item.create(item=TEXT)
            connection.response.create()
            events += until(connection, "response.done")
        connection.input_audio_buffer.append(audio="AAAA" * 100_000)
        connection.input_audio_buffer.commit()
        events += until(connection, "conversation.item.input_audio_transcription.completed")
    return events


async def realtime_async(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:
        options = {"model": "gpt-realtime", "extra_headers": user("realtime_async")}
        async with client.realtime.connect(**options) as connection:
            await connection.response.create()
            return [dump(await connection.recv()) for _ in range(5)]


def realtime_refused(client):
    client = client.with_options(api_key="sk-wrong")
    try:
        with client.realtime.connect(model="gpt-realtime", extra_headers=user("realtime_refused"), max_retries=0):
            raise AssertionError("it was let in")
    except websockets.exceptions.InvalidStatus as e:
        return [e.response.status_code, e.response.headers["content-type"], e.response.body.decode()]


def responses_socket(client):
    with client.responses.connect(extra_headers=user("responses_socket")) as connection:
        events = []
        for model in ["gpt-4.1", "gpt-4.1-mini"]:
            connection.response.create(model=model, input="Hi")
            events += until(connection, "response.completed")
        return events


def main():
    base_url = sys.argv[1]
    client = openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0)
    calls = {
        "chat": chat,
        "chat_raw": chat_raw,
        quote("太郎"): chat_encoded,
        "chat_stream": chat_stream("chat_stream"),
        "chat_stream_usage": chat_stream("chat_stream_usage", stream_options={"include_usage": True}),
        "chat_stream_no_usage": chat_stream("chat_stream_no_usage", stream_options={"include_usage": False}),
        "completion": completion,
        "completion_stream": completion_stream,
        "response": response,
        "response_stream": response_stream,
        "embedding": embedding,
        "models": models,
        "error": error(False),
        "error_stream": error(True),
        "realtime": realtime,
        "realtime_refused": realtime_refused,
        "responses_socket": responses_socket,
    }
    results = {name: call(client) for name, call in calls.items()}
    results["async"] = asyncio.run(concurrent(base_url))
    results["realtime_async"] = asyncio.run(realtime_async(base_url))
    json.dump(results, sys.stdout)


main()
