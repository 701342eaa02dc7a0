import type { Conversation, Message } from "@holdfast/client";
import { expect, test } from "vitest";
import { direct, friendOf, type Row, withChat, withMessage, withPage, withRow } from "../src/model/conversations";

const message = (chatId: string, timestamp: number, content = `${timestamp}`): Message => ({
  messageId: `m-${chatId}-${timestamp}`,
  chatId,
  senderId: "bob",
  content,
  timestamp,
});
const conversation = (chatId: string, lastMessage: Message | null, more: Partial<Conversation> = {}): Conversation => ({
  chatId,
  members: chatId.split(":"),
  lastMessage,
  unread: 0,
  online: [],
  ...more,
});
const ids = (rows: readonly Row[]) => rows.map(({ chatId }) => chatId);

test("a chat's other user is found, and only in a direct chat of this user", () => {
  expect(direct("bob", "alice")).toBe("alice:bob");
  // In byte order.
  expect(direct("alice", "Zoe")).toBe("Zoe:alice");
  expect(friendOf("alice:bob", "alice")).toBe("bob");
  expect(friendOf("alice:bob", "bob")).toBe("alice");
  for (const chatId of ["g_1", "alice:bob", "carol", "carol:carol", "a:carol:b"]) {
    expect(friendOf(chatId, "carol")).toBeUndefined();
  }
});

test("a message moves its chat up, begins a direct chat that is not listed, and changes nothing if it is old", () => {
  const rows = withPage([], [conversation("a:me", message("a:me", 20)), conversation("b:me", message("b:me", 10))], 99);
  expect(ids(rows)).toEqual(["a:me", "b:me"]);
  const moved = withMessage(rows, message("b:me", 30))!;
  expect(ids(moved)).toEqual(["b:me", "a:me"]);
  expect(moved[0]?.lastMessage?.timestamp).toBe(30);
  expect(withMessage(moved, message("b:me", 15))).toBe(moved);
  expect(ids(withMessage(moved, message("c:me", 40))!)).toEqual(["c:me", "b:me", "a:me"]);
  expect(withMessage(moved, message("g_1", 50))).toBeUndefined();
});

test("a page that was asked for before a message came does not take it back", () => {
  const rows = withMessage([], message("a:me", 30))!;
  const page = withPage(rows, [conversation("a:me", message("a:me", 20), { unread: 2, online: ["a"] })], 99);
  expect(page).toMatchObject([{ lastMessage: { timestamp: 30 }, at: 30, unread: 2, online: ["a"] }]);
});

test("what is unknown stays as it was, and what a page does not name stays in the list", () => {
  const rows = withChat(
    withPage([], [conversation("a:me", message("a:me", 20), { unread: 3, online: ["a"] })], 99),
    "z:me",
    ["me", "z"],
    50,
  );
  const again = withPage(rows, [conversation("a:me", message("a:me", 20), { unread: null, online: null })], 99);
  expect(again).toMatchObject([
    { chatId: "z:me", at: 50 },
    { chatId: "a:me", unread: 3, online: ["a"] },
  ]);
  expect(withRow(again, "a:me", { unread: 0 })[1]).toMatchObject({ unread: 0 });
});

test("a new group without a message stands where the gateway has it", () => {
  const page = [
    conversation("a:me", message("a:me", 20)),
    conversation("g_1", null),
    conversation("b:me", message("b:me", 10)),
  ];
  expect(ids(withPage([], page, 99))).toEqual(["a:me", "g_1", "b:me"]);
});
