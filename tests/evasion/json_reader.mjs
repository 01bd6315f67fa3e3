// Reads request bodies as Node does: a line of base64 in, a line of JSON out.

import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  let body = null;
  try {
    body = JSON.parse(new TextDecoder().decode(Buffer.from(line, "base64")));
  } catch {
    // not JSON to it
  }
  if (body === null || typeof body !== "object" || Array.isArray(body)) {
    console.log("null");
    continue;
  }
  const name = typeof body.model === "string" ? body.model.toWellFormed() : null;
  const { stream, max_tokens = null, n = null } = body;
  console.log(JSON.stringify({ model: name, stream: Boolean(stream), max_tokens, n }));
}
