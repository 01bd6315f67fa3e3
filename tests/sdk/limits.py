"""Two users of a limited proxy: one who must wait a moment, one whose budget is spent. Prints what became of each."""

import json
import sys

from openai import OpenAI, RateLimitError

base_url, key = sys.argv[1:]


def ask(user):
    client = OpenAI(base_url=base_url, api_key=key, default_headers={"X-User-ID": user})
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], max_tokens=1)


def outcome(user):
    try:
        return [ask(user).object, ask(user).object]
    except RateLimitError as error:
        return error.code


print(json.dumps({user: outcome(user) for user in ["waits", "spent"]}))
