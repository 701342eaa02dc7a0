import { expect, test } from "vitest";
import type { Message } from "../src/index.js";
import { type Tab, world } from "./world.js";

const CHAT = "alice:bob";
const GROUP = "g_1";

async function opened(messages: number, limit = 20) {
  const { clock, server, browser } = world();
  let number = 0;
  const say = (chatId = CHAT) => server.accept(chatId, "bob", `${++number}`, `bob-${number}`).message;
  for (let at = 0; at < messages; at++) say();
  const tab = browser.open();
  await clock.advance(100);
  const chat = tab.client.chat(CHAT);
  if (limit > 0) await Promise.all([chat.history({ limit }), clock.advance(100)]);
  server.asked.length = 0;
  return { clock, server, browser, tab, chat, say };
}

const contents = (tab: Tab, chatId = CHAT) => tab.client.chat(chatId).messages.map(({ content }) => content);
const told = (tab: Tab) => tab.told("newMessage").map(({ content }) => content);

test("history is read page by page to the beginning, whatever comes meanwhile", async () => {
  const { clock, tab, chat, say } = await opened(7, 3);
  expect(contents(tab)).toEqual(["5", "6", "7"]);
  expect(chat.complete).toBe(false);
  say();
  const [second, third] = [chat.history({ limit: 3 }), chat.history({ limit: 3 })];
  await clock.advance(100);
  expect((await second).map(({ content }) => content)).toEqual(["4", "3", "2"]);
  expect((await third).map(({ content }) => content)).toEqual(["1"]);
  expect(contents(tab)).toEqual(["1", "2", "3", "4", "5", "6", "7", "8"]);
  expect(chat.complete).toBe(true);
  expect(await chat.history()).toEqual([]);
  expect(told(tab)).toEqual(["8"]);
});

test("an incomplete page is shown, and asked for again; a refusal that is final is thrown", async () => {
  const { clock, server, tab, chat } = await opened(3, 0);
  server.historyFaults = ["incomplete", "unavailable", "lost"];
  const page = chat.history();
  await clock.advance(100);
  expect(contents(tab)).toEqual(["3"]);
  await clock.advance(10_000);
  expect(await page).toHaveLength(3);
  expect(contents(tab)).toEqual(["1", "2", "3"]);
  server.historyFaults = Array.from({ length: 100 }, () => "unavailable" as const);
  const never = expect(tab.client.chat(GROUP).history()).rejects.toMatchObject({
    code: "UNAVAILABLE",
    retryable: true,
  });
  await clock.advance(60_000);
  await never;
});

test("messages are in the order of time and id, and the array is the same until it changes", async () => {
  const { clock, tab, chat } = await opened(0);
  let changes = 0;
  chat.subscribe(() => changes++);
  const before = chat.messages;
  expect(chat.messages).toBe(before);
  const message = (messageId: string, timestamp: number, content: string): Message => ({
    messageId,
    chatId: CHAT,
    senderId: "bob",
    content,
    timestamp,
    epoch: null,
    seq: null,
  });
  for (const one of [
    message("b", 2, "third"),
    message("a", 2, "second"),
    message("c", 1, "first"),
    message("c", 1, "first"),
  ]) {
    tab.socket.deliver("newMessage", one);
  }
  await clock.advance(10);
  expect(contents(tab)).toEqual(["first", "second", "third"]);
  expect(told(tab)).toHaveLength(3);
  expect(chat.messages).not.toBe(before);
  expect(changes).toBeGreaterThan(0);
});

test("what was missed while the connection was away comes with the handshake", async () => {
  const { clock, server, tab, say } = await opened(2);
  server.cut();
  say();
  say();
  await clock.advance(5_000);
  expect(contents(tab)).toEqual(["1", "2", "3", "4"]);
  expect(told(tab)).toEqual(["3", "4"]);
  expect(tab.socket.auth.offsets[CHAT].seq).toBe(2);
  // Neither `resume` nor history had to be asked for.
  expect(server.asked.map(({ event }) => event)).toEqual([]);
  expect(tab.told("synced").length).toBeGreaterThan(0);
});

test("resync is answered by resume", async () => {
  const { clock, server, tab, say } = await opened(1);
  server.liveFaults = ["lost"];
  say();
  server.resync();
  await clock.advance(50);
  expect(contents(tab)).toEqual(["1", "2"]);
  expect(server.asked.map(({ event }) => event)).toEqual(["resume"]);
});

test("a gap is waited out for a second, then resumed; what comes late by itself needs nothing", async () => {
  const { clock, server, tab, say } = await opened(1);
  server.liveFaults = ["late", "ok"];
  say();
  say();
  await clock.advance(3_000);
  expect(server.asked).toEqual([]);
  server.liveFaults = ["lost", "ok"];
  say();
  say();
  await clock.advance(900);
  expect(contents(tab)).toEqual(["1", "2", "3", "5"]);
  await clock.advance(200);
  expect(contents(tab)).toEqual(["1", "2", "3", "4", "5"]);
  expect(server.asked.map(({ event }) => event)).toEqual(["resume"]);
});

test("a position that becomes known counts, unless the message is not here", async () => {
  const { clock, server, tab, say } = await opened(1);
  server.liveFaults = ["without position", "ok"];
  say();
  say();
  await clock.advance(5_000);
  expect(server.asked).toEqual([]);
  tab.socket.deliver("messagePositioned", {
    chatId: CHAT,
    messageId: "unknown",
    epoch: server.chat(CHAT).epoch,
    seq: 4,
  });
  server.liveFaults = ["lost", "ok"];
  say();
  say();
  await clock.advance(5_000);
  expect(contents(tab)).toEqual(["1", "2", "3", "4", "5"]);
  expect(server.asked.map(({ event }) => event)).toEqual(["resume"]);
});

test("a duplicate that is dropped still counts towards the offset", async () => {
  const { clock, server, tab, chat } = await opened(1);
  const { messageId, timestamp } = chat.messages[0]!;
  const { epoch } = server.chat(CHAT);
  tab.socket.deliver("newMessage", {
    messageId,
    chatId: CHAT,
    senderId: "bob",
    content: "1",
    timestamp,
    epoch,
    seq: 2,
  });
  await clock.advance(10);
  server.cut();
  await clock.advance(5_000);
  expect(tab.socket.auth.offsets[CHAT]).toEqual({ epoch, seq: 2 });
  expect(told(tab)).toEqual([]);
});

test("a new epoch, or recovered: false, has history read again, back to what is known", async () => {
  const { clock, server, tab, say } = await opened(150, 100);
  server.newEpoch(CHAT);
  server.liveFaults = ["lost"];
  say();
  say();
  await clock.advance(2_000);
  expect(contents(tab).slice(-3)).toEqual(["150", "151", "152"]);
  expect(contents(tab)).toHaveLength(102);
  expect(told(tab)).toEqual(["152", "151"]);
  const before = server.asked.length;
  server.resumeFaults = ["not recovered"];
  server.liveFaults = ["lost"];
  say();
  server.resync();
  await clock.advance(1_000);
  expect(told(tab).slice(-1)).toEqual(["153"]);
  expect(server.asked.slice(before).map(({ event }) => event)).toEqual(["resume", "history", "history"]);
});

test("what was told before the chat was opened is not told again when it comes late, nor shown before its page", async () => {
  const { clock, server, tab, chat, say } = await opened(0, 0);
  server.liveFaults = ["twice"];
  const { messageId } = say();
  say();
  await clock.advance(20);
  // The repeat of the first comes after this page, which does not reach back to it.
  await Promise.all([chat.history({ limit: 1 }), clock.advance(200)]);
  expect(contents(tab)).toEqual(["2"]);
  expect(told(tab)).toEqual(["1", "2"]);
  tab.socket.deliver("messageFailed", { messageId, tempId: "bob-1", chatId: CHAT });
  await Promise.all([chat.history({ limit: 1 }), clock.advance(200)]);
  expect(contents(tab)).toEqual(["1", "2"]);
  expect(told(tab)).toEqual(["1", "2"]);
});

test("when far too much was missed, the view starts anew and can be paged back from there", async () => {
  const { clock, server, tab, chat, say } = await opened(10);
  server.cut();
  server.network = false;
  await clock.advance(3_600_000);
  for (let at = 0; at < 700; at++) say();
  server.newEpoch(CHAT);
  server.network = true;
  await clock.advance(60_000);
  expect(contents(tab)).toHaveLength(500);
  expect(chat.complete).toBe(false);
  for (let page = 0; page < 4; page++) await Promise.all([chat.history({ limit: 100 }), clock.advance(100)]);
  expect(contents(tab)).toEqual(Array.from({ length: 710 }, (_, index) => `${index + 1}`));
  expect(chat.complete).toBe(true);
  expect(new Set(told(tab)).size).toBe(told(tab).length);
});

test("a message that has another time than the one that is shown has history asked", async () => {
  const { clock, server, tab, chat } = await opened(2);
  const { messageId = "", timestamp } = chat.messages[0]!;
  const { epoch } = server.chat(CHAT);
  // Taken back while nobody listened, and sent again after the other.
  server.chat(CHAT).durable.get(messageId)!.timestamp = timestamp + 10;
  const again = { messageId, chatId: CHAT, senderId: "bob", content: "1", timestamp: timestamp + 10, epoch, seq: 3 };
  tab.socket.deliver("newMessage", again);
  await clock.advance(100);
  expect(contents(tab)).toEqual(["2", "1"]);
  expect(told(tab)).toEqual([]);
});

test("a message that is resumed with another time than the one that is shown has history asked, however old it is", async () => {
  const { clock, server, tab, chat, say } = await opened(0);
  // A gateway shows it, and is killed before it is listed or durable.
  const { epoch } = server.chat(CHAT);
  const timestamp = clock.now - 1;
  const shown = { messageId: "m", chatId: CHAT, senderId: "bob", content: "resent", timestamp, epoch: null, seq: null };
  tab.socket.deliver("newMessage", shown);
  say();
  await clock.advance(100);
  expect(contents(tab)).toEqual(["resent", "1"]);
  server.cut();
  server.network = false;
  await clock.advance(600_000);
  for (let at = 0; at < 150; at++) say();
  // Its sender repeats it, and another gateway lists it anew: it is the same message at another time.
  const again = { ...shown, timestamp: clock.now + 1_000 };
  server.chat(CHAT).stream.push({ seq: ++server.chat(CHAT).seq, message: again });
  server.network = true;
  await clock.advance(60_000);
  expect(server.chat(CHAT).epoch).toBe(epoch);
  expect(contents(tab)).toEqual(server.chat(CHAT).history.map(({ content }) => content));
  expect(contents(tab).at(-1)).toBe("resent");
  expect(told(tab).filter((content) => content === "resent")).toHaveLength(1);
  expect(chat.messages).toHaveLength(152);
});

test("a live message does not vouch for what came before it", async () => {
  const { clock, server, tab, say } = await opened(3, 0);
  const { handle } = server;
  server.handle = (socket, event, payload, reply) =>
    handle.call(server, socket, event, payload, (answer) => reply(answer, event === "history" ? 50 : 0));
  const page = tab.client.chat(CHAT).history();
  await clock.advance(10);
  // The page is made already, and arrives after the second of these.
  server.liveFaults = ["lost", "ok"];
  say();
  say();
  await clock.advance(2_000);
  await page;
  expect(contents(tab)).toEqual(["1", "2", "3", "4", "5"]);
});

test("a message that nothing durable took disappears, and comes back if it becomes durable after all", async () => {
  const { clock, server, tab } = await opened(1);
  server.fail(CHAT, "bob", "shown too early", "bob-x");
  await clock.advance(4);
  await clock.advance(50);
  expect(contents(tab)).toEqual(["1"]);
  expect(tab.told("messageFailed")).toMatchObject([{ tempId: "bob-x" }]);
  server.accept(CHAT, "bob", "shown too early", "bob-x");
  await clock.advance(50);
  expect(contents(tab)).toEqual(["1", "shown too early"]);
});

test("a retraction that comes after the positive answer takes nothing back", async () => {
  const { clock, tab, chat } = await opened(0);
  const { sent } = chat.send("mine");
  await clock.advance(100);
  const { messageId, tempId } = await sent;
  tab.socket.deliver("messageFailed", { messageId, tempId, chatId: CHAT });
  await clock.advance(100);
  expect(chat.messages).toMatchObject([{ content: "mine", status: "sent" }]);
  expect(tab.told("messageFailed")).toEqual([]);
});

test("chats that nobody opened are followed from their first live message on", async () => {
  const { clock, server, tab, say } = await opened(0);
  for (let at = 0; at < 5; at++) server.accept(GROUP, "bob", `before ${at}`, `old-${at}`);
  await clock.advance(50);
  server.cut();
  say(GROUP);
  say(GROUP);
  await clock.advance(5_000);
  expect(told(tab).slice(-2)).toEqual(["1", "2"]);
  const before = told(tab).length;
  server.resumeFaults = ["not recovered"];
  server.resync();
  await clock.advance(5_000);
  expect(told(tab)).toHaveLength(before);
});

test("without a stream to follow it asks again, ever more rarely, until there is one", async () => {
  const { clock, server, tab, say } = await opened(1);
  const { missed } = server;
  const { handle } = server;
  const away = (answer: object) => ({ ...answer, epoch: null, seq: null });
  server.missed = (offsets) => ({
    chats: Object.fromEntries(Object.keys(offsets).map((id) => [id, away({ recovered: false })])),
  });
  server.handle = (socket, event, payload, reply) =>
    handle.call(server, socket, event, payload, (answer, after) =>
      reply(event === "history" ? away(answer) : answer, after),
    );
  server.resync();
  await clock.advance(300_000);
  const asked = server.asked.length;
  expect(asked).toBeGreaterThan(8);
  expect(asked).toBeLessThan(40);
  Object.assign(server, { missed, handle });
  server.liveFaults = ["lost"];
  say();
  await clock.advance(31_000);
  expect(contents(tab)).toEqual(["1", "2"]);
  const settled = server.asked.length;
  await clock.advance(300_000);
  expect(server.asked).toHaveLength(settled);
});

test("a chat that one does not belong to is not asked for again", async () => {
  const { clock, server, tab } = await opened(1);
  const { handle } = server;
  server.handle = (socket, event, payload, reply) => {
    if (event !== "history") return handle.call(server, socket, event, payload, reply);
    server.asked.push({ event, payload, at: clock.now });
    reply({ ok: false, error: { code: "FORBIDDEN", message: "no", retryable: false } });
  };
  server.newEpoch(CHAT);
  await clock.advance(300_000);
  expect(server.asked.filter(({ event }) => event === "history")).toHaveLength(1);
  await expect(Promise.all([tab.client.chat(GROUP).history(), clock.advance(100)])).rejects.toMatchObject({
    code: "FORBIDDEN",
  });
});

test("the rest of the interface: read, typing, requests, other events", async () => {
  const { clock, server, tab, chat } = await opened(2);
  const typing: unknown[] = [];
  const stop = tab.client.on("typing", (event) => typing.push(event));
  tab.socket.deliver("typing", { chatId: CHAT, userId: "bob", typing: true });
  const [unread] = await Promise.all([chat.markRead(), clock.advance(100)]);
  expect(unread).toBe(0);
  const newest = chat.messages.at(-1)!.messageId;
  expect(server.asked.at(-1)).toMatchObject({ event: "markRead", payload: { chatId: CHAT, upTo: newest } });
  chat.typing(true);
  const [counts] = await Promise.all([tab.client.request("unread", {}), clock.advance(100)]);
  expect(counts).toMatchObject({ total: 0 });
  expect(server.asked.map(({ event }) => event)).toContain("typing");
  expect(typing).toEqual([{ chatId: CHAT, userId: "bob", typing: true }]);
  stop();
  tab.socket.deliver("typing", { chatId: CHAT, userId: "bob", typing: false });
  await clock.advance(10);
  expect(typing).toHaveLength(1);
  expect(tab.client.direct("bob")).toBe(chat);
  expect(tab.client.direct("Zoe").id).toBe("Zoe:alice");
  await Promise.all([tab.client.ready, clock.advance(1)]);
  expect(tab.client.userId).toBe("alice");
  tab.client.close();
  await expect(tab.client.request("unread", {})).rejects.toMatchObject({ code: "CLOSED" });
});
