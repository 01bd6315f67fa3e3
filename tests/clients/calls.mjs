// The calls of tests/clients.rs by a client of Node: `calls.mjs CLIENT SERVER BODY_FILE`, with output as in calls.py.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';

const PIECE = 10_000;
const [client, server, file] = process.argv.slice(2);
const body = readFileSync(file);

const json = { 'content-type': 'application/json' };
const expect = { expect: '100-continue', ...json };
const plan = [
  ...[0, 1, 2].map((n) => [`kept ${n}`, 'GET', `/v1/models/${n}`, {}]),
  ['small', 'POST', '/v1/embeddings', json, Buffer.from('{"model":"m","input":"x"}'), 'length'],
  ['length', 'POST', '/v1/embeddings', json, body, 'length'],
  ['chunked', 'POST', '/v1/files', {}, body, 'chunked'],
  ['chunked json', 'POST', '/v1/embeddings', json, body, 'chunked'],
  ['expect', 'POST', '/v1/embeddings', expect, body, 'length'],
  ['expect streamed', 'POST', '/v1/files', expect, body, 'length'],
  ['head', 'HEAD', '/v1/models/large', {}],
  ['large', 'GET', '/v1/models/large', {}],
  ['nothing', 'DELETE', '/v1/models/0', {}],
  ['missing', 'GET', '/v1/missing', {}],
];

function* pieces(data) {
  for (let at = 0; at < data.length; at += PIECE) yield data.subarray(at, at + PIECE);
}

async function whole(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

const require = createRequire(import.meta.url);
const undici = () => require(`${process.env.HTTP_NODE_MODULES}/node_modules/undici`);

// Each gives a function of method, path, fields, body and how to send it; its answer: status, body, length field.
const clients = {
  undici() {
    const pool = new (undici().Pool)(server, { connections: 1 });
    return async (method, path, { expect: unsupported, ...headers }, data, how) => {
      const answer = await pool.request({
        method, path, headers, body: how === 'chunked' ? Readable.from(pieces(data)) : data ?? null,
      });
      return [answer.statusCode, Buffer.from(await answer.body.arrayBuffer()), answer.headers['content-length']];
    };
  },
  fetch() {
    const dispatcher = new (undici().Pool)(server, { connections: 1 });
    return async (method, path, { expect: unsupported, ...headers }, data, how) => {
      const sent = how === 'chunked' ? Readable.toWeb(Readable.from(pieces(data))) : data;
      const answer = await undici().fetch(server + path, { method, headers, body: sent, duplex: 'half', dispatcher });
      return [answer.status, Buffer.from(await answer.arrayBuffer()), answer.headers.get('content-length')];
    };
  },
  http() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    return (method, path, fields, data, how) => new Promise((done, fail) => {
      const headers = how === 'length' ? { ...fields, 'content-length': data.length } : fields;
      const request = http.request(server + path, { agent, method, headers }, (answer) => {
        whole(answer).then((read) => done([answer.statusCode, read, answer.headers['content-length']]), fail);
      });
      request.on('error', fail);
      const send = () => Readable.from(data ? pieces(data) : []).pipe(request);
      if (fields.expect) {
        request.on('continue', send); // never sent where 100 does not come
        request.flushHeaders();
      } else send();
    });
  },
};

const call = clients[client]();
const results = [];
for (const [name, method, path, fields, data, how] of plan) {
  const [status, read, length] = await call(method, path, fields, data, how);
  results.push([name, status, createHash('sha256').update(read).digest('hex'), method === 'HEAD' ? length : null]);
}
process.stdout.write(JSON.stringify(results), () => process.exit(0));
