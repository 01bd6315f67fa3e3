// Makes one call of each kind with the official client and prints, as JSON, what an application would get back.
//
// Usage: node calls.mjs BASE_URL, with SDK_NODE_MODULES naming the folder that holds `node_modules`. Only the base URL
// differs between a run against the upstream and one through the proxy.

import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.resolve(process.env.SDK_NODE_MODULES, "calls.mjs"));
const { OpenAI, APIError } = require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");
const { ResponsesWS } = require("openai/resources/responses/ws");

const baseURL = process.argv[2];
const client = new OpenAI({ baseURL, apiKey: "sk-test", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello. 日本語でも。" }];

const user = (name) => ({ headers: { "X-User-ID": `sdk-${name}` } });

async function collect(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

// A name beyond ASCII, as its header takes it: the call's own, percent-encoded.
const chatEncoded = () => {
  const headers = { "X-User-ID*": `UTF-8''sdk-${encodeURIComponent("太郎")}` };
  return client.chat.completions.create({ model: "gpt-4o", messages }, { headers });
};

async function chatRaw() {
  const call = client.chat.completions.create({ model: "gpt-4o", messages }, user("chat_raw"));
  const response = await call.asResponse();
  const fields = ["x-request-id", "openai-processing-ms"].map((name) => response.headers.get(name));
  return [response.status, ...fields, await response.text()];
}

const chatStream = (name, options = {}) => () =>
  collect(client.chat.completions.create({ model: "gpt-4o", messages, stream: true, ...options }, user(name)));

const failing = (name, stream) => async () => {
  try {
    await client.chat.completions.create({ model: "missing", messages, stream }, user(name));
  } catch (e) {
    if (!(e instanceof APIError)) throw e;
    return [e.constructor.name, e.status, e.code, e.error, e.requestID];
  }
  throw new Error("no error was raised");
};

// Runs a conversation: `next(event)` is called with each event, and ends it with `true`. All events, in order.
const conversation = (socket, next) =>
  new Promise((resolve, reject) => {
    const events = [];
    socket.on("error", reject);
    socket.on("event", (event) => {
      events.push(event);
      if (next(event)) socket.close();
    });
    (socket.socket.platformSocket ?? socket.socket).on("close", (code) => resolve([events, code]));
  });

function realtime() {
  const socket = new OpenAIRealtimeWS({ model: "gpt-realtime", options: user("realtime") }, client);
  const item = { type: "message", role: "user", content: [{ type: "input_text", text: "Hi" }] };
  let responses = 0;
  return conversation(socket, (event) => {
    switch (event.type) {
      case "session.created":
        socket.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"] } });
        socket.send({ type: "conversation.item.create", item });
        socket.send({ type: "response.create" });
        return false;
      case "response.done":
        responses += 1;
        if (responses < 2) {
          socket.send({ type: "response.create" });
        } else {
          socket.send({ type: "input_audio_buffer.append", audio: "AAAA".repeat(100_000) });
          socket.send({ type: "input_audio_buffer.commit" });
        }
        return false;
      default:
        return event.type === "conversation.item.input_audio_transcription.completed";
    }
  });
}

async function realtimeRefused() {
  const options = { model: "gpt-realtime", options: user("realtime_refused") };
  const socket = new OpenAIRealtimeWS(options, client.withOptions({ apiKey: "sk-wrong" }));
  const refusal = await new Promise((resolve) => socket.on("error", resolve));
  return [refusal.constructor.name, refusal.message];
}

function responsesSocket() {
  const socket = new ResponsesWS(client, user("responses_socket"));
  socket.send({ type: "response.create", model: "gpt-4.1", input: "Hi", stream_id: "a" });
  socket.send({ type: "response.create", model: "gpt-4.1-mini", input: "Hi", stream_id: "b" });
  let responses = 0;
  return conversation(socket, (event) => event.type === "response.completed" && ++responses === 2);
}

const calls = {
  chat: () => client.chat.completions.create({ model: "gpt-4o", messages }, user("chat")),
  chat_raw: chatRaw,
  [encodeURIComponent("太郎")]: chatEncoded,
  chat_stream: chatStream("chat_stream"),
  chat_stream_usage: chatStream("chat_stream_usage", { stream_options: { include_usage: true } }),
  chat_stream_no_usage: chatStream("chat_stream_no_usage", { stream_options: { include_usage: false } }),
  completion: () =>
    client.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "Hi" }, user("completion")),
  completion_stream: () =>
    collect(
      client.completions.create(
        { model: "gpt-3.5-turbo-instruct", prompt: "Hi", stream: true },
        user("completion_stream"),
      ),
    ),
  response: () => client.responses.create({ model: "gpt-4.1", input: "Hi" }, user("response")),
  response_stream: () =>
    collect(client.responses.create({ model: "gpt-4.1", input: "Hi", stream: true }, user("response_stream"))),
  embedding: () =>
    client.embeddings.create({ model: "text-embedding-3-small", input: "Hi" }, user("embedding")),
  models: () => collect(client.models.list(user("models"))),
  error: failing("error", false),
  error_stream: failing("error_stream", true),
  async: () => Promise.all(Array.from({ length: 10 }, chatStream("async"))),
  realtime,
  realtime_refused: realtimeRefused,
  responses_socket: responsesSocket,
};

const results = {};
for (const [name, call] of Object.entries(calls)) results[name] = await call();
process.stdout.write(JSON.stringify(results));
