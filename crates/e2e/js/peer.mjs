// A chat peer made of the official Socket.IO client, for end-to-end tests. Two modes:
//
//   node peer.mjs --url URL --token JWT --friend ID [--send N] [--expect N] …
//     sends N messages and repeats each, with the same tempId, until it has a final answer; collects `newMessage` meanwhile.
//     Ends when every send is answered and EXPECT different messages of others have come, or after --timeout seconds.
//   node peer.mjs --mode history --url URL --token JWT --friend ID [--limit N]
//     reads the chat to its beginning through `history`.
//
// One JSON document on stdout at the end; one JSON line on stderr for each event of the connection (`connected`, …), which a
// test can wait for. Exit code 0: done; 1: not done in time, or something was refused for good; 2: wrong arguments.
// Stdin: a line `go` starts a peer that was given --wait; `stop`, or SIGTERM, ends it early with what it has.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { io } from "socket.io-client";

const ANSWER_TIMEOUT_MS = 6_000; // longer than the gateway's SEND_DEADLINE_MS
const BACKOFF_MS = { first: 100, most: 2_000 };
const CATCH_UP_MARGIN_MS = 60_000; // for clocks that differ

const { values: options } = parseArgs({
  options: {
    mode: { type: "string", default: "chat" }, // chat | history
    url: { type: "string" }, // several, separated by commas: the next one is tried after each lost connection
    token: { type: "string" },
    friend: { type: "string" },
    chat: { type: "string" }, // a chatId, in place of --friend
    send: { type: "string", default: "0" },
    expect: { type: "string", default: "0" },
    inflight: { type: "string", default: "8" },
    rate: { type: "string" }, // sends per second; without: as fast as the answers come
    transport: { type: "string" }, // websocket | polling; without: the client's default, polling with an upgrade
    prefix: { type: "string", default: "message" },
    wait: { type: "boolean", default: false }, // send only after a line `go` on stdin, so that peers can start together
    "catch-up": { type: "boolean", default: false }, // on each connection and on `resync`, read what was missed through `history`
    linger: { type: "string", default: "0" }, // seconds to go on listening when done
    limit: { type: "string", default: "100" },
    timeout: { type: "string", default: "60" }, // seconds
  },
});

function usageError(message) {
  process.stderr.write(`peer: ${message}\n`);
  process.exit(2);
}

function count(name) {
  const value = Number(options[name] ?? 0);
  if (!Number.isFinite(value) || value < 0) usageError(`--${name} must be a number, not ${options[name]}`);
  return value;
}

function subject(token) {
  try {
    return JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString()).sub;
  } catch {
    return null; // a test may well present a token that is none
  }
}

if (!options.url || !options.token) usageError("--url and --token are needed");
if (!options.friend && !options.chat) usageError("--friend or --chat is needed");
if (!["chat", "history"].includes(options.mode)) usageError("--mode must be chat or history");

const target = options.chat ? { chatId: options.chat } : { friendId: options.friend };
const sends = count("send");
const expected = count("expect");
const inflight = Math.max(1, count("inflight"));
const rate = count("rate");
const linger = count("linger") * 1_000;
const limit = count("limit");
const timeout = count("timeout") * 1_000;
const me = subject(options.token);
const startedAt = Date.now();

// ---------------------------------------------------------------------------------------------- what the tests will read

const received = new Map(); // messageId → record, in the order of arrival
const report = {
  user: me,
  complete: false,
  acks: [], // { messageId, tempId, timestamp, durability, duplicate, attempts, ms }
  rejected: [], // refused for good: { tempId, code, message }
  unanswered: [], // tempIds whose fate is unknown at the end
  refusals: {}, // code → how often, the retryable ones included
  timeouts: 0, // attempts that got no answer in time, or lost their connection
  received: [], // { messageId, tempId, senderId, chatId, timestamp, seq, epoch, copies, via }
  duplicates: 0, // messages that were delivered live more than once
  failed: [], // messageIds of `messageFailed`
  resyncs: 0,
  connects: 0,
  disconnects: 0,
  connectErrors: {}, // message → how often
};

const tally = (table, key) => (table[key] = (table[key] ?? 0) + 1);
const log = (event, more) => process.stderr.write(`${JSON.stringify({ event, ...more })}\n`);

function receive(message, via) {
  const { messageId, tempId, senderId, chatId, timestamp, seq = null, epoch = null } = message;
  if (!received.has(messageId)) {
    received.set(messageId, { messageId, tempId, senderId, chatId, timestamp, seq, epoch, copies: 0, via });
  }
  // Reading a message again through history is no second delivery.
  if (via === "live") received.get(messageId).copies += 1;
}

const receivedFromOthers = () => [...received.values()].filter((message) => message.senderId !== me).length;

// ------------------------------------------------------------------------------------------------------------- connection

const urls = options.url.split(",");

function connect() {
  const socket = io(urls[0], {
    auth: { token: options.token },
    forceNew: true,
    reconnectionDelay: BACKOFF_MS.first,
    reconnectionDelayMax: BACKOFF_MS.most,
    timeout: 5_000,
    ...(options.transport && { transports: [options.transport] }),
  });
  let at = 0;
  const tryNextUrl = () => (socket.io.uri = urls[++at % urls.length]);
  socket.on("connect", () => {
    report.connects += 1;
    log("connected", { transport: socket.io.engine.transport.name, url: socket.io.uri });
  });
  socket.on("disconnect", (reason) => {
    report.disconnects += 1;
    log("disconnected", { reason });
    tryNextUrl();
    // The client reconnects by itself, except when it was the server who closed.
    if (!socket.active) setTimeout(() => socket.connect(), BACKOFF_MS.first * (1 + Math.random()));
  });
  socket.on("connect_error", (error) => {
    tally(report.connectErrors, error.message);
    log("connect-error", { message: error.message });
    if (error.message === "UNAUTHENTICATED") return end(1);
    tryNextUrl();
    if (!socket.active) setTimeout(() => socket.connect(), BACKOFF_MS.first * (1 + Math.random()));
  });
  socket.on("messageFailed", ({ messageId }) => report.failed.push(messageId));
  return socket;
}

const connected = (socket) => socket.connected || new Promise((resolve) => socket.once("connect", resolve));

const backoff = (attempt) => Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** attempt) * (0.5 + Math.random() / 2);

// Asks until there is a final answer: timeouts, lost connections and retryable refusals are repeated as they are.
async function ask(socket, event, payload) {
  for (let attempt = 0; ; attempt += 1) {
    await connected(socket);
    let answer;
    try {
      answer = await socket.timeout(ANSWER_TIMEOUT_MS).emitWithAck(event, payload);
    } catch {
      report.timeouts += 1;
      await sleep(backoff(attempt));
      continue;
    }
    if (answer.ok) return { answer, attempts: attempt + 1 };
    tally(report.refusals, answer.error.code);
    if (!answer.error.retryable) return { answer, attempts: attempt + 1 };
    await sleep(Math.max(answer.error.retryAfterMs ?? 0, backoff(attempt)));
  }
}

// ------------------------------------------------------------------------------------------------------------------- chat

async function sendOne(socket, number) {
  if (rate > 0) await sleep(Math.max(0, startedAt + (number * 1_000) / rate - Date.now()));
  const tempId = randomUUID();
  report.unanswered.push(tempId);
  const begun = performance.now();
  const { answer, attempts } = await ask(socket, "sendMessage", { ...target, tempId, content: `${options.prefix} ${number}` });
  report.unanswered.splice(report.unanswered.indexOf(tempId), 1);
  if (!answer.ok) {
    report.rejected.push({ tempId, code: answer.error.code, message: answer.error.message });
    return;
  }
  const { message, durability, duplicate = false } = answer;
  const ms = Math.round((performance.now() - begun) * 10) / 10;
  report.acks.push({ messageId: message.messageId, tempId, timestamp: message.timestamp, durability, duplicate, attempts, ms });
}

async function sendAll(socket) {
  let next = 0;
  const sender = async () => {
    while (next < sends) await sendOne(socket, next++);
  };
  await Promise.all(Array.from({ length: Math.min(inflight, sends) }, sender));
}

// Reads history from the newest message to where this run began (and a minute more: give each run a chat of its own). One reader at a time; a call meanwhile reads once more.
function catchUpReader(socket) {
  let reading = false;
  let again = false;
  return async () => {
    if (reading) return void (again = true);
    reading = true;
    do {
      again = false;
      let before;
      do {
        const { answer } = await ask(socket, "history", { ...target, limit: Math.min(limit, 100), before });
        if (!answer.ok) break;
        if (!answer.complete) again = await sleep(BACKOFF_MS.most, true);
        answer.messages.forEach((message) => receive(message, "history"));
        const oldest = answer.messages.at(-1)?.timestamp ?? 0;
        before = oldest < startedAt - CATCH_UP_MARGIN_MS ? undefined : answer.nextCursor;
      } while (before);
    } while (again);
    reading = false;
  };
}

async function chat(socket) {
  const enough = () => receivedFromOthers() >= expected;
  const catchUp = catchUpReader(socket);
  socket.on("newMessage", (message) => receive(message, "live"));
  socket.on("connect", () => options["catch-up"] && catchUp());
  socket.on("resync", () => {
    report.resyncs += 1;
    if (options["catch-up"]) catchUp();
  });
  await connected(socket);
  if (options.wait) await go;
  await sendAll(socket);
  while (!enough()) await sleep(20);
  await sleep(linger);
  report.complete = true;
  return report.rejected.length === 0 ? 0 : 1;
}

// ---------------------------------------------------------------------------------------------------------------- history

async function history(socket) {
  Object.assign(report, { messageIds: [], pages: [], source: [] });
  let before;
  do {
    const { answer } = await ask(socket, "history", { ...target, limit, before });
    if (!answer.ok) {
      report.rejected.push({ code: answer.error.code, message: answer.error.message });
      return 1;
    }
    const { messages, source, complete, epoch, seq, nextCursor } = answer;
    report.messageIds.push(...messages.map((message) => message.messageId)); // newest first
    report.pages.push({ messages: messages.length, source, complete, epoch, seq });
    before = nextCursor;
  } while (before);
  report.source = [...new Set(report.pages.map((page) => page.source))];
  report.complete = report.pages.every((page) => page.complete);
  return report.complete ? 0 : 1;
}

// -------------------------------------------------------------------------------------------------------------------- end

let ended = false;

function end(code) {
  if (ended) return;
  ended = true;
  report.received = [...received.values()];
  report.duplicates = report.received.filter((message) => message.copies > 1).length;
  process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(code));
}

const socket = connect();
setTimeout(end, timeout, 1);
process.on("SIGTERM", () => end(1));
const commands = createInterface({ input: process.stdin });
const go = new Promise((resolve) => commands.on("line", (line) => line.trim() === "go" && resolve()));
commands.on("line", (line) => line.trim() === "stop" && end(report.unanswered.length > 0 ? 1 : 0));
end(await (options.mode === "history" ? history(socket) : chat(socket)));
