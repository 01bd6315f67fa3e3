// Reads HTTP/1.1 with Node's own parser, as its server and its client use it. Lines of JSON in and out, as described in
// h11_reader.py.

import http from 'node:http';
import { createInterface } from 'node:readline';
import { Duplex } from 'node:stream';

const LIMIT = 1 << 20;

function pairs(raw) {
  return Array.from({ length: raw.length / 2 }, (_, i) => [raw[2 * i], raw[2 * i + 1]]);
}

async function body(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  if (!stream.complete) throw new Error('the message has no end');
  return Buffer.concat(parts).toString('base64');
}

// A connection without a network. `written` hears of what is written to it.
function connection(written) {
  const socket = new Duplex({
    read() {},
    write(chunk, encoding, done) {
      written(chunk);
      done();
    },
  });
  for (const name of ['setKeepAlive', 'setNoDelay', 'setTimeout', 'ref', 'unref']) socket[name] = () => socket;
  socket.destroySoon = () => socket.destroy();
  return socket;
}

function patiently(promise, job) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error('the message has no end')), job.patience_ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function requests(job, messages) {
  const server = http.createServer({ maxHeaderSize: LIMIT, keepAliveTimeout: 0, requestTimeout: 0 });
  server.maxHeadersCount = 0;
  let settle;
  const outcome = new Promise((done, fail) => { settle = { done, fail }; });
  let pending = Promise.resolve();
  const take = (request, response) => {
    const read = body(request);
    read.catch(() => {}); // it is awaited in its turn
    pending = pending.then(async () => {
      const whole = await read;
      const start = `${request.method} ${request.url}`;
      messages.push({ start, fields: pairs([...request.rawHeaders, ...request.rawTrailers]), body: whole });
      response.end();
      if (messages.length === job.parts.length) settle.done();
    });
    pending.catch(settle.fail); // and nothing after it is read
  };
  for (const name of ['request', 'checkContinue', 'checkExpectation']) server.on(name, take);
  server.on('upgrade', () => settle.fail(new Error('an upgrade')));
  server.on('clientError', (error, socket) => {
    settle.fail(error);
    socket.destroy();
  });
  const socket = connection(() => {});
  server.emit('connection', socket);
  socket.push(Buffer.concat(job.parts.map((part) => Buffer.from(part, 'base64'))));
  await patiently(outcome, job);
  await new Promise((done) => { setImmediate(() => setImmediate(done)); }); // what is left over would show itself now
  socket.destroy();
  if (messages.length > job.parts.length) throw new Error('left over: a further message');
  await outcome;
}

async function responses(job, messages) {
  let written = () => {};
  let socket;
  let opened = 0;
  let allowed = 1;
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = () => {
    opened += 1;
    socket = connection(() => written());
    return socket;
  };
  for (const [index, part] of job.parts.entries()) {
    const sent = new Promise((done) => { written = done; });
    const request = http.request({ agent, method: job.methods[index], path: '/', host: 'a', maxHeaderSize: LIMIT });
    request.maxHeadersCount = 0;
    const answered = new Promise((done, fail) => {
      request.on('response', (response) => done(
        body(response).then((whole) => {
          const fields = pairs([...response.rawHeaders, ...response.rawTrailers]);
          return { start: `${response.statusCode}`, fields, body: whole };
        }),
      ));
      request.on('upgrade', () => fail(new Error('an upgrade')));
      request.on('error', fail);
    });
    request.end();
    await patiently(Promise.race([sent, answered]), job);
    // What is left over of a message makes Node drop the connection. It also does so of its own accord where an answer
    // to HEAD has no framing.
    if (opened > allowed) throw new Error('left over: the connection is of no use any more');
    socket.push(Buffer.from(part, 'base64'));
    if (job.ended && index === job.parts.length - 1) socket.push(null);
    messages.push(await patiently(answered, job));
    if (!request.shouldKeepAlive) allowed += 1;
  }
  socket.destroy();
}

process.on('uncaughtException', (error) => { console.error(error); process.exit(1); });
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const messages = [];
  let error = null;
  try {
    await (job.role === 'requests' ? requests : responses)(job, messages);
  } catch (problem) {
    error = `${problem.code ?? ''} ${problem.message}`;
  }
  console.log(JSON.stringify({ messages, error }));
}
process.exit(0);
