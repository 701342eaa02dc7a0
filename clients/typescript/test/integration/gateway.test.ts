// Against a real gateway: HOLDFAST_URL is its address, HOLDFAST_JWT_SECRET the secret that it checks tokens with (HS256).
import { createHmac, randomUUID } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { IDBFactory } from "fake-indexeddb";
import { afterEach, expect, test } from "vitest";
import { decide } from "../../examples/failed.js";
import { looked, scrolledToTop } from "../../examples/pages.js";
import { quickstart } from "../../examples/quickstart.js";
import { environment, type SocketLike } from "../../src/environment.js";
import {
  type Chat,
  type Client,
  type ConnectOptions,
  connect,
  indexedDbStore,
  type Status,
  type ViewMessage,
} from "../../src/index.js";

const { HOLDFAST_URL: url = "", HOLDFAST_JWT_SECRET: secret = "" } = process.env;
const there = url !== "" && secret !== "";
if (!there) process.stdout.write("Skipped: HOLDFAST_URL and HOLDFAST_JWT_SECRET do not say where a gateway is\n");
const gateway = test.skipIf(!there);

const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
function token(user: string, seconds = 600): string {
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp: Math.floor(Date.now() / 1_000) + seconds })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

const clients: Client[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

/** A socket that can be cut, and whose answers can be lost. */
interface Wire {
  cut(): void;
  loseAnswers: number;
}

function open(user: string, options: Partial<ConnectOptions> = {}): { client: Client; wire: Wire } {
  const standard = environment();
  const wire: Wire = { cut: () => {}, loseAnswers: 0 };
  const socket = (address: string, given: Record<string, unknown>): SocketLike => {
    const real = standard.socket(address, given);
    const emit = real.emit.bind(real);
    real.emit = (event, payload, answer) =>
      emit(event, payload, (value) => {
        if (event === "sendMessage" && wire.loseAnswers > 0) wire.loseAnswers--;
        else answer(value);
      });
    wire.cut = () => (real as unknown as { io: { engine: { close(): void } } }).io.engine.close();
    return real;
  };
  // Time-outs and pauses are a tenth of what they are, so that nobody has to wait.
  const setTimeout = (run: () => void, ms: number) => standard.setTimeout(run, ms / 10);
  const client = connect({
    url,
    getToken: () => token(user),
    ...options,
    environment: { socket, setTimeout, ...options.environment },
  });
  clients.push(client);
  return { client, wire };
}

/** The view, once it is as wanted. */
function until(chat: Chat, wanted: (messages: readonly ViewMessage[]) => boolean): Promise<readonly ViewMessage[]> {
  return new Promise((resolve) => {
    const look = () => {
      if (!wanted(chat.messages)) return;
      stop();
      resolve(chat.messages);
    };
    const stop = chat.subscribe(look);
    look();
  });
}

const online = (client: Client) =>
  new Promise<void>((resolve) => {
    const stop = client.on("status", (status: Status) => {
      if (status !== "online") return;
      stop();
      resolve();
    });
    if (client.status === "online") resolve();
  });

async function pair(options: [Partial<ConnectOptions>?, Partial<ConnectOptions>?] = []) {
  const run = randomUUID().slice(0, 8);
  const [alice, bob] = [`alice-${run}`, `bob-${run}`];
  const [ofAlice, ofBob] = [open(alice, options[0]), open(bob, options[1])];
  await Promise.all([ofAlice.client.ready, ofBob.client.ready, online(ofAlice.client), online(ofBob.client)]);
  const [hers, his] = [ofAlice.client.direct(bob), ofBob.client.direct(alice)];
  return { alice, bob, ofAlice, ofBob, hers, his };
}

gateway("a message is sent, shown and read", async () => {
  const { hers, his, ofBob } = await pair();
  await Promise.all([hers.history(), his.history()]);
  const message = await hers.send({ content: "hello", imageUrl: "https://example.org/image.png" }).sent;
  const [shown] = await until(his, (messages) => messages.length === 1);
  expect(shown).toMatchObject({ messageId: message.messageId, content: "hello", status: "received" });
  expect(shown).toMatchObject({ imageUrl: "https://example.org/image.png" });
  expect(await his.markRead()).toBe(0);
  await until(hers, ([line]) => line?.status === "read");
  expect(await ofBob.client.request("unread", {})).toMatchObject({ total: 0 });
});

gateway("history pages back to the beginning, in order", async () => {
  const { hers, his } = await pair();
  const contents = Array.from({ length: 45 }, (_, number) => `message ${number}`);
  await Promise.all(contents.map((content) => hers.send(content).sent));
  expect((await his.history()).map(({ content }) => content)).toEqual(contents.slice(25).reverse());
  while (!his.complete) await his.history();
  expect(his.messages.map(({ content }) => content)).toEqual(contents);
  expect(hers.messages.map(({ content, status }) => [content, status])).toEqual(
    contents.map((content) => [content, "sent"]),
  );
});

gateway("connections that are cut lose nothing, repeat nothing and keep the order", async () => {
  const { hers, his, ofAlice, ofBob } = await pair();
  await his.history();
  const told: string[] = [];
  ofBob.client.on("newMessage", ({ content }) => told.push(content));
  const contents = Array.from({ length: 30 }, (_, number) => `message ${number}`);
  for (const [number, content] of contents.entries()) {
    const { sent } = hers.send(content);
    if (number % 10 === 3) {
      ofAlice.wire.cut();
      ofBob.wire.cut();
      await sent;
    }
  }
  const shown = await until(his, (messages) => messages.length === contents.length);
  expect(shown.map(({ content }) => content)).toEqual(contents);
  await until(hers, (messages) => messages.every(({ status }) => status === "sent"));
  expect([...told].sort()).toEqual([...contents].sort());
});

gateway("an answer that is lost: the repeat is the same message", async () => {
  const { hers, his, ofAlice } = await pair();
  await his.history();
  ofAlice.wire.loseAnswers = 2;
  const message = await hers.send("once").sent;
  expect(ofAlice.wire.loseAnswers).toBe(0);
  await hers.send("and then").sent;
  const shown = await until(his, (messages) => messages.length === 2);
  expect(shown[0]).toMatchObject({ messageId: message.messageId, timestamp: message.timestamp });
  expect((await his.history()).length).toBe(0);
});

gateway("what an app had in its outbox when it was killed is sent by the next start", async () => {
  const factory = new IDBFactory();
  const store = () => indexedDbStore(factory, "outbox");
  const run = randomUUID().slice(0, 8);
  const user = `alice-${run}`;
  // Nobody listens there.
  const { client: first } = open(user, { url: "http://127.0.0.1:9", store: store() });
  await first.ready;
  const { kept } = first.direct(`bob-${run}`).send("written in a tunnel");
  await kept;
  first.close();
  const { client: second } = open(user, { store: store() });
  await second.ready;
  const chat = second.direct(`bob-${run}`);
  const [line] = await until(chat, ([message]) => message?.status === "sent");
  expect(line).toMatchObject({ content: "written in a tunnel" });
});

gateway(
  "a token that has expired is replaced; one that ends closes the connection, and the next one opens it again",
  async () => {
    const asked: boolean[] = [];
    const user = `alice-${randomUUID().slice(0, 8)}`;
    const getToken = ({ refresh }: { refresh: boolean }) => {
      asked.push(refresh);
      return token(user, refresh ? 600 : -10);
    };
    const { client } = open(user, { getToken });
    await online(client);
    expect(asked).toEqual([false, true]);
  },
);

gateway("what is refused for good fails with its reason, and what comes after it does not wait", async () => {
  const { hers } = await pair();
  const refused = hers.send("\u200b");
  const { sent } = hers.send("visible");
  await expect(refused.sent).rejects.toMatchObject({ code: "VALIDATION" });
  expect(await sent).toMatchObject({ content: "visible" });
  await decide(hers, () => false);
  expect(hers.messages.map(({ content }) => content)).toEqual(["visible"]);
});

gateway("the examples of README.md", async () => {
  const user = `alice-${randomUUID().slice(0, 8)}`;
  const rendered: string[][] = [];
  const { client, chat, message } = await quickstart(
    url,
    async () => token(user),
    (messages) => rendered.push(messages.map(({ status }) => status)),
  );
  clients.push(client);
  expect(message).toMatchObject({ content: "hello", senderId: user });
  await scrolledToTop(chat);
  await looked(chat);
  expect(rendered.flat()).toContain("sent");
  expect(chat.messages).toMatchObject([{ messageId: message.messageId, status: "sent" }]);
});

gateway("docs/clients.md: JavaScript without the library", async () => {
  const text = await readFile(new URL("../../../../docs/clients.md", import.meta.url), "utf8");
  const [, code = ""] = /```js\n([\s\S]*?)```/.exec(text) ?? [];
  // Where socket.io-client is found.
  const file = new URL("../../node_modules/.cache/clients.mjs", import.meta.url);
  await mkdir(new URL(".", file), { recursive: true });
  await writeFile(file, code);
  const { start } = await import(/* @vite-ignore */ file.href);

  const run = randomUUID().slice(0, 8);
  const [alice, bob] = [`alice-${run}`, `bob-${run}`];
  const asked: boolean[] = [];
  const hers = start(url, async (refresh: boolean) => {
    asked.push(refresh);
    return token(alice, refresh ? 600 : -10);
  });
  let changed = () => {};
  class Observed extends Map<string, ViewMessage> {
    override set(key: string, value: ViewMessage): this {
      super.set(key, value);
      changed();
      return this;
    }
  }
  const messages = new Observed();
  const his = start(url, async () => token(bob), messages);
  try {
    const received = (count: number) =>
      new Promise<void>((resolve) => {
        changed = () => messages.size === count && resolve();
        changed();
      });
    await new Promise((resolve) => his.socket.once("connect", resolve));
    const body = { tempId: randomUUID(), friendId: bob, content: "hello" };
    const { messageId } = await hers.send(body);
    expect(asked).toEqual([false, true]);
    expect((await hers.send(body)).messageId).toBe(messageId);
    await received(1);
    his.socket.io.engine.close();
    const contents = Array.from({ length: 5 }, (_, number) => `message ${number}`);
    for (const content of contents) await hers.send({ tempId: randomUUID(), friendId: bob, content });
    await received(6);
    const shown = [...messages.values()].sort((one, other) => one.timestamp - other.timestamp);
    expect(shown.map(({ content }) => content)).toEqual(["hello", ...contents]);
    await expect(hers.send({ ...body, content: "\u200b" })).rejects.toThrow("VALIDATION");
  } finally {
    hers.socket.disconnect();
    his.socket.disconnect();
  }
});
