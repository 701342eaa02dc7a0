import type { Conversation, Message } from "@holdfast/client";

/** A line of the list of conversations. */
export interface Row {
  chatId: string;
  members: readonly string[];
  lastMessage?: Message;
  /** What orders the list: the last message's time, or a guess where there is none. */
  at: number;
  unread: number;
  online: readonly string[];
}

export const isGroup = (chatId: string): boolean => chatId.startsWith("g_");

/** The chat with another user. */
export const direct = (userId: string, friendId: string): string => [userId, friendId].sort().join(":");

/** The other user of a direct chat; undefined for a group, and for what is no chat of this user. */
export function friendOf(chatId: string, userId: string): string | undefined {
  if (isGroup(chatId)) return undefined;
  const members = chatId.split(":");
  if (members.length !== 2 || members[0] === members[1] || !members.includes(userId)) return undefined;
  return members[0] === userId ? members[1] : members[0];
}

const newer = (one: Message, other: Message | undefined): boolean =>
  !other || one.timestamp > other.timestamp || (one.timestamp === other.timestamp && one.messageId > other.messageId);

const byTime = (one: Row, other: Row): number => other.at - one.at || (one.chatId < other.chatId ? -1 : 1);

/** With a page of the list as the gateway has it. Rows that it does not name stay: they belong to other pages, or are not known there yet. */
export function withPage(rows: readonly Row[], page: readonly Conversation[], now: number): Row[] {
  const all = new Map(rows.map((row) => [row.chatId, row]));
  let at = now;
  for (const { chatId, members, lastMessage, unread, online } of page) {
    const known = all.get(chatId);
    // What has come in the meantime is newer than the page.
    const last =
      known?.lastMessage && lastMessage && newer(known.lastMessage, lastMessage) ? known.lastMessage : lastMessage;
    at = last?.timestamp ?? known?.at ?? at;
    all.set(chatId, {
      chatId,
      members,
      ...(last && { lastMessage: last }),
      at,
      unread: unread ?? known?.unread ?? 0,
      online: online ?? known?.online ?? [],
    });
  }
  return [...all.values()].sort(byTime);
}

/** With a message that has come. Undefined: the list has no such group, so it has to be asked for. */
export function withMessage(rows: readonly Row[], message: Message): Row[] | undefined {
  const { chatId } = message;
  const known = rows.find((row) => row.chatId === chatId);
  if (!known && isGroup(chatId)) return undefined;
  if (known?.lastMessage && !newer(message, known.lastMessage)) return rows as Row[];
  const row = {
    ...(known ?? { chatId, members: chatId.split(":"), unread: 0, online: [] }),
    lastMessage: message,
    at: message.timestamp,
  };
  return [...rows.filter((other) => other !== known), row].sort(byTime);
}

/** With a chat that somebody has opened and nobody has written in. */
export function withChat(rows: readonly Row[], chatId: string, members: readonly string[], now: number): Row[] {
  if (rows.some((row) => row.chatId === chatId)) return rows as Row[];
  return [...rows, { chatId, members, at: now, unread: 0, online: [] }].sort(byTime);
}

/** With something else about one chat. */
export function withRow(rows: readonly Row[], chatId: string, change: Partial<Row>): Row[] {
  return rows.map((row) => (row.chatId === chatId ? { ...row, ...change } : row));
}
