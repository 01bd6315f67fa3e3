"""Reads pages by the official client's own types: what the scripted books answer is what is published.

In: JSON on standard input, pages by the end of their path. Out: the number of results that were read; a type that does
not fit ends it with its complaint.
"""

import json
import sys

from openai.types.admin import organization as types

KINDS = {
    "completions": types.UsageCompletionsResponse,
    "embeddings": types.UsageEmbeddingsResponse,
    "moderations": types.UsageModerationsResponse,
    "images": types.UsageImagesResponse,
    "audio_speeches": types.UsageAudioSpeechesResponse,
    "audio_transcriptions": types.UsageAudioTranscriptionsResponse,
    "web_search_calls": types.UsageWebSearchCallsResponse,
    "file_search_calls": types.UsageFileSearchCallsResponse,
    "code_interpreter_sessions": types.UsageCodeInterpreterSessionsResponse,
    "costs": types.UsageCostsResponse,
}

count = 0
for name, pages in json.load(sys.stdin).items():
    for page in pages:
        read = KINDS[name].model_validate(page)
        count += sum(len(bucket.results) for bucket in read.data)
print(count)
