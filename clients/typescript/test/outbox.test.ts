import { IDBFactory } from "fake-indexeddb";
import { expect, test } from "vitest";
import { type Client, HoldfastError } from "../src/index.js";
import { START, tokenOf, world } from "./world.js";

const CHAT = "alice:bob";
const statuses = (client: Client) => client.chat(CHAT).messages.map(({ content, status }) => `${content}: ${status}`);

test("a send is sending, then sent, then read", async () => {
  const { clock, server, browser } = world();
  const { client, socket } = browser.open();
  await clock.advance(100);
  await Promise.all([client.chat(CHAT).history(), clock.advance(100)]);
  const { tempId, sent } = client.chat(CHAT).send("hello");
  expect(client.chat(CHAT).messages).toMatchObject([{ key: tempId, tempId, senderId: "alice", status: "sending" }]);
  expect(client.chat(CHAT).messages[0]).not.toHaveProperty("messageId");
  await clock.advance(100);
  const message = await sent;
  expect(client.chat(CHAT).messages).toMatchObject([{ key: tempId, messageId: message.messageId, status: "sent" }]);
  socket.deliver("messagesRead", { chatId: CHAT, userId: "bob", upTo: message.messageId });
  await clock.advance(10);
  expect(statuses(client)).toEqual(["hello: read"]);
  // What one reads oneself, on another device, says nothing about the others.
  client.chat(CHAT).send("and you?");
  await clock.advance(100);
  const { messageId } = client.chat(CHAT).messages[1]!;
  socket.deliver("messagesRead", { chatId: CHAT, userId: "alice", upTo: messageId });
  await clock.advance(10);
  expect(statuses(client)).toEqual(["hello: read", "and you?: sent"]);
  expect(server.arrived).toHaveLength(2);
});

test("shown to everybody, but not yet promised: the line stays one line, and says sending", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  server.sendFaults = ["lost answer"];
  client.chat(CHAT).send("hello");
  await clock.advance(100);
  expect(client.chat(CHAT).messages).toMatchObject([{ status: "sending", messageId: expect.any(String) }]);
  await clock.advance(10_000);
  expect(statuses(client)).toEqual(["hello: sent"]);
});

test("whoever uses the tempId of another is somebody else", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  server.network = false;
  const { tempId } = client.chat(CHAT).send("mine");
  await clock.advance(10);
  server.network = true;
  server.sendFaults = ["unavailable"];
  server.accept(CHAT, "bob", "theirs", tempId);
  await clock.advance(20);
  expect(statuses(client)).toEqual(["theirs: received", "mine: sending"]);
});

test.each([
  "lost request",
  "lost answer",
  "late answer",
  "answered twice",
  "unavailable",
  "limited",
  "shown and failed",
  "unauthenticated",
  "killed before answer",
] as const)("%s: it is repeated with its tempId, and is one message", async (fault) => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  server.sendFaults = [fault];
  const { tempId, sent } = client.chat(CHAT).send("hello");
  await clock.advance(30_000);
  expect((await sent).tempId).toBe(tempId);
  expect([...server.chat(CHAT).durable.values()].map((message) => message.tempId)).toEqual([tempId]);
  expect(new Set(server.arrived.map((send) => send.tempId))).toEqual(new Set([tempId]));
  expect(statuses(client)).toEqual(["hello: sent"]);
  expect(browser.disk.size).toBe(0);
});

test("an answer that comes after the time-out counts, and ends the repeating", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  // 7 s, while the client waits for 6 s; the repeat is lost.
  server.sendFaults = ["late answer", "lost request"];
  const { sent } = client.chat(CHAT).send("hello");
  await clock.advance(7_100);
  expect(await sent).toMatchObject({ content: "hello" });
  await clock.advance(60_000);
  expect(server.arrived).toHaveLength(1);
});

test("one chat's sends go in order; another chat's do not wait for them", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  server.sendFaults = ["unavailable"];
  for (const number of [1, 2, 3]) client.chat(CHAT).send(`${number}`);
  client.chat("g_1").send("elsewhere");
  await clock.advance(50);
  expect(server.chat("g_1").durable.size).toBe(1);
  expect(server.chat(CHAT).durable.size).toBe(0);
  await clock.advance(5_000);
  expect(server.chat(CHAT).history.map(({ content }) => content)).toEqual(["1", "2", "3"]);
});

test("what can't be retried fails, says why, and holds nothing up; it can be tried again or given up", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  const chat = client.chat(CHAT);
  const bad = chat.send("bad");
  const good = chat.send("good");
  await clock.advance(100);
  await expect(bad.sent).rejects.toThrow(HoldfastError);
  await expect(bad.sent).rejects.toMatchObject({ code: "VALIDATION", retryable: false });
  expect(await good.sent).toMatchObject({ content: "good" });
  expect(chat.messages).toMatchObject([
    { content: "good" },
    { content: "bad", status: "failed", error: { code: "VALIDATION" } },
  ]);
  await clock.advance(60_000);
  expect(server.arrived).toHaveLength(2);
  await Promise.all([chat.retry(bad.tempId), clock.advance(100)]);
  expect(server.arrived.map(({ tempId }) => tempId)).toEqual([bad.tempId, good.tempId, bad.tempId]);
  await Promise.all([chat.discard(bad.tempId), clock.advance(100)]);
  expect(statuses(client)).toEqual(["good: sent"]);
  expect(browser.disk.size).toBe(0);
});

test("retryAfterMs is waited for, by everything; other refusals are repeated ever more rarely, never in step", async () => {
  const { clock, server, browser } = world();
  const { client } = browser.open();
  await clock.advance(100);
  server.sendFaults = ["limited"];
  client.chat(CHAT).send("limited");
  await clock.advance(20);
  client.chat("g_1").send("not before that either");
  await clock.advance(1_400);
  expect(server.arrived).toHaveLength(1);
  await clock.advance(2_500);
  expect(server.arrived).toHaveLength(3);

  const gaps = (seed: number) => async () => {
    const { clock, server, browser } = world(seed);
    const { client } = browser.open();
    await clock.advance(100);
    server.sendFaults = Array.from({ length: 12 }, () => "unavailable" as const);
    client.chat(CHAT).send("again and again");
    await clock.advance(400_000);
    return server.arrived.map(({ at }, index, all) => at - (all[index - 1]?.at ?? at)).slice(1);
  };
  const one = await gaps(1)();
  expect(one).toHaveLength(12);
  for (const [index, gap] of one.entries()) {
    const most = Math.min(30_000, 500 * 2 ** index) + 20;
    expect(gap).toBeGreaterThan(most / 2 - 20);
    expect(gap).toBeLessThanOrEqual(most);
  }
  expect(await gaps(2)()).not.toEqual(one);
});

test("an app that is killed while it sends shows the message as sending after the start, and sends it", async () => {
  const { clock, server, browser } = world();
  browser.indexedDB = new IDBFactory();
  const first = browser.open();
  await clock.advance(100);
  server.network = false;
  const { kept } = first.client.chat(CHAT).send("written in a tunnel");
  await clock.settle();
  await kept;
  first.kill();
  await clock.advance(3_600_000);
  const second = browser.open();
  await clock.advance(100);
  expect(statuses(second.client)).toEqual(["written in a tunnel: sending"]);
  server.network = true;
  await clock.advance(30_000);
  expect(statuses(second.client)).toEqual(["written in a tunnel: sent"]);
  expect(server.chat(CHAT).durable.size).toBe(1);
});

test("what failed for good has failed after a reload, too", async () => {
  const { clock, server, browser } = world();
  const first = browser.open();
  await clock.advance(100);
  first.client.chat(CHAT).send("bad");
  await clock.advance(100);
  first.kill();
  const second = browser.open();
  await clock.advance(1_000);
  expect(second.client.chat(CHAT).messages).toMatchObject([{ status: "failed", error: { code: "VALIDATION" } }]);
  expect(server.arrived).toHaveLength(1);
});

test("a send that is in the outbox already is waited for, or tried again, and not kept twice", async () => {
  const { clock, server, browser } = world();
  const first = browser.open();
  await clock.advance(100);
  server.network = false;
  const { tempId } = first.client.chat(CHAT).send("hello");
  await clock.advance(20);
  first.kill();
  server.network = true;
  const { client } = browser.open();
  await clock.settle();
  await clock.advance(2);
  const again = client.chat(CHAT).send({ tempId, content: "hello" });
  expect(client.chat(CHAT).send({ tempId, content: "hello" })).toBe(again);
  await clock.advance(1_000);
  expect(await again.sent).toMatchObject({ tempId });
  expect(statuses(client)).toEqual(["hello: sent"]);
  const { tempId: failed } = client.chat(CHAT).send("bad");
  await clock.advance(100);
  const { sent } = client.chat(CHAT).send({ tempId: failed, content: "bad" });
  await clock.advance(100);
  await expect(sent).rejects.toMatchObject({ code: "VALIDATION" });
  expect(server.arrived.map((send) => send.tempId)).toEqual([tempId, failed, failed]);
  expect(browser.disk.size).toBe(1);
});

test("nothing is emitted before it is kept, and what can't be kept says so", async () => {
  const { clock, server, browser } = world();
  let broken = true;
  const store = browser.store({ dead: false, run: (what: () => void) => what() } as never);
  const add = store.add;
  store.add = (entry) => (broken ? Promise.reject(new Error("quota")) : add(entry));
  const { client, events } = browser.open({ store });
  await clock.advance(100);
  const { tempId, kept, sent } = client.chat(CHAT).send("hello");
  await expect(kept).rejects.toMatchObject({ code: "STORAGE" });
  await expect(sent).rejects.toMatchObject({ code: "STORAGE" });
  await clock.advance(10_000);
  expect(statuses(client)).toEqual(["hello: failed"]);
  expect(server.arrived).toHaveLength(0);
  expect(events.some(({ name, payload }) => name === "error" && payload.message === "quota")).toBe(true);
  broken = false;
  await Promise.all([client.chat(CHAT).retry(tempId), clock.advance(100)]);
  expect(statuses(client)).toEqual(["hello: sent"]);
});

test("two tabs share an outbox: one sends, both see it, and the other takes over", async () => {
  const { clock, server, browser } = world();
  const [one, two] = [browser.open(), browser.open()];
  await clock.advance(100);
  server.sendFaults = ["unavailable"];
  two.client.chat(CHAT).send("from the second");
  await clock.advance(20);
  expect(statuses(one.client)).toEqual(["from the second: sending"]);
  await clock.advance(2_000);
  expect(statuses(one.client)).toEqual(["from the second: sent"]);
  expect(statuses(two.client)).toEqual(["from the second: sent"]);
  expect(new Set(server.arrived.map(({ tab }) => tab))).toEqual(new Set([one]));

  const failed = two.client.chat(CHAT).send("bad");
  await clock.advance(100);
  await expect(failed.sent).rejects.toMatchObject({ code: "VALIDATION" });
  expect(statuses(one.client)).toContain("bad: failed");
  await Promise.all([two.client.chat(CHAT).discard(failed.tempId), clock.advance(100)]);
  expect(statuses(one.client)).toEqual(["from the second: sent"]);

  server.sendFaults = ["lost request"];
  const { sent } = two.client.chat(CHAT).send("whoever is left");
  await clock.advance(20);
  one.kill();
  await clock.advance(100);
  expect(await sent).toMatchObject({ content: "whoever is left" });
  expect(server.arrived.at(-1)?.tab).toBe(two);
});

test("a page that is suspended and keeps the lock does not keep the others from sending", async () => {
  const { clock, server, browser } = world();
  const [one, two] = [browser.open(), browser.open()];
  await clock.advance(100);
  // It answered a moment ago.
  two.client.chat(CHAT).send("first");
  await clock.advance(100);
  expect(server.arrived.map(({ tab }) => tab)).toEqual([one]);
  one.freeze();
  const { sent } = two.client.chat(CHAT).send("hello");
  await clock.advance(2_900);
  expect(server.arrived).toHaveLength(1);
  await clock.advance(1_700);
  expect(await sent).toMatchObject({ content: "hello" });
  // It wakes up and is no longer the one; and who answers is left to it.
  one.thaw();
  await clock.advance(100);
  expect(statuses(one.client)).toEqual(["first: sent", "hello: sent"]);
  server.arrived.length = 0;
  server.sendFaults = Array.from({ length: 5 }, () => "unavailable" as const);
  one.client.chat(CHAT).send("and again");
  await clock.advance(120_000);
  expect(new Set(server.arrived.map(({ tab }) => tab))).toEqual(new Set([two]));
  expect(statuses(one.client)).toEqual(["first: sent", "hello: sent", "and again: sent"]);
  // Asleep from the start of a page on.
  two.freeze();
  server.network = false;
  const late = one.client.chat(CHAT).send("third");
  await clock.advance(10);
  await late.kept;
  one.kill();
  server.network = true;
  browser.open();
  await clock.advance(5_000);
  expect(server.chat(CHAT).history.map(({ content }) => content)).toEqual(["first", "hello", "and again", "third"]);
});

test("a tab without a connection leaves the sending to one that has it", async () => {
  const { clock, server, browser } = world();
  const [one, two] = [browser.open(), browser.open()];
  await clock.advance(100);
  one.token = () => new Promise(() => {});
  one.socket.lose("transport close");
  await clock.advance(1_000);
  const { sent } = two.client.chat(CHAT).send("hello");
  await clock.advance(5_000);
  expect(await sent).toMatchObject({ content: "hello" });
  expect(server.arrived.map(({ tab }) => tab)).toEqual([two]);
});

test("a client that is closed before it has a token keeps neither the lock nor anything that was to be sent", async () => {
  const { clock, server, browser } = world();
  const one = browser.open();
  const { kept } = one.client.chat(CHAT).send("too early");
  one.close();
  await expect(kept).rejects.toMatchObject({ code: "CLOSED" });
  await expect(one.client.ready).rejects.toMatchObject({ code: "CLOSED" });
  await clock.advance(100);
  expect(browser.holder()).toBeUndefined();
  const two = browser.open();
  await clock.advance(100);
  two.client.chat(CHAT).send("hello");
  await clock.advance(100);
  expect(server.arrived.map(({ content }) => content)).toEqual(["hello"]);
});

test("a closed client leaves the outbox to the next", async () => {
  const { clock, server, browser } = world();
  const one = browser.open();
  await clock.advance(100);
  server.network = false;
  const { sent, kept } = one.client.chat(CHAT).send("later");
  await clock.advance(20);
  await kept;
  one.close();
  await expect(sent).rejects.toMatchObject({ code: "CLOSED", retryable: true });
  await expect(one.client.chat(CHAT).send("too late").kept).rejects.toMatchObject({ code: "CLOSED" });
  server.network = true;
  browser.open();
  await clock.advance(1_000);
  expect(server.chat(CHAT).history.map(({ content }) => content)).toEqual(["later"]);
});

test("another user of the same browser neither sees nor sends it", async () => {
  const { clock, server, browser } = world();
  browser.indexedDB = new IDBFactory();
  const factory = browser.indexedDB;
  const { client } = browser.open({ environment: { indexedDB: factory } });
  await clock.advance(100);
  const events: Error[] = [];
  client.on("error", (error) => events.push(error));
  const tab = browser.tabs[0]!;
  tab.token = () => tokenOf("mallory");
  server.cut();
  await clock.advance(20_000);
  expect(client.status).not.toBe("online");
  expect(events[0]?.message).toBe("the token is of mallory, not of alice");
  expect(clock.now).toBeGreaterThan(START);
});
