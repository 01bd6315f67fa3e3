// Two users of a limited proxy: one who must wait a moment, one whose budget is spent. Prints what became of each.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.SDK_NODE_MODULES}/`);
const { default: OpenAI, RateLimitError } = require("openai");
const [baseURL, apiKey] = process.argv.slice(2);

function ask(user) {
  const client = new OpenAI({ baseURL, apiKey, defaultHeaders: { "X-User-ID": user } });
  const messages = [{ role: "user", content: "hi" }];
  return client.chat.completions.create({ model: "gpt-4o-mini", messages, max_tokens: 1 });
}

async function outcome(user) {
  try {
    return [(await ask(user)).object, (await ask(user)).object];
  } catch (error) {
    if (!(error instanceof RateLimitError)) throw error;
    return error.code;
  }
}

console.log(JSON.stringify({ waits: await outcome("waits"), spent: await outcome("spent") }));
