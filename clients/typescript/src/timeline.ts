import type { Message } from "./generated/events.js";

type Position = Pick<Message, "timestamp" | "messageId">;

/** The order of history: by time, then by id. */
export function compare(one: Position, other: Position): number {
  if (one.timestamp !== other.timestamp) return one.timestamp - other.timestamp;
  return one.messageId < other.messageId ? -1 : one.messageId > other.messageId ? 1 : 0;
}

const ASIDE_MOST = 2_000;

/** A chat's messages in order, each once. */
export class Timeline {
  readonly messages: Message[] = [];
  private readonly byId = new Map<string, Message>();
  /** Told, but older than what is shown: these come back with the page that they belong to, and are not told again. */
  private readonly aside = new Set<string>();
  /** What its sender was told to be durable: no retraction that comes late can be about it. */
  private readonly durable = new Set<string>();

  get(messageId: string): Message | undefined {
    return this.byId.get(messageId);
  }

  knows(messageId: string): boolean {
    return this.byId.has(messageId) || this.aside.has(messageId);
  }

  get newest(): Message | undefined {
    return this.messages[this.messages.length - 1];
  }

  /** A copy `asStored` replaces the one that is there. */
  add(message: Message, asStored = false): void {
    const known = this.byId.get(message.messageId);
    if (known && (!asStored || known.timestamp === message.timestamp)) return;
    if (known) this.messages.splice(this.messages.indexOf(known), 1);
    this.insert(message);
  }

  /** It is known, but not shown. */
  putAside(messageId: string): void {
    this.aside.add(messageId);
    for (const first of this.aside) {
      if (this.aside.size <= ASIDE_MOST) break;
      this.aside.delete(first);
    }
  }

  isDurable(messageId: string): void {
    this.durable.add(messageId);
  }

  /** Takes a message back, unless it is durable. */
  retract(messageId: string): boolean {
    const known = this.byId.get(messageId);
    if (this.durable.has(messageId)) return false;
    if (!known) return this.aside.delete(messageId);
    this.messages.splice(this.messages.indexOf(known), 1);
    this.byId.delete(messageId);
    return true;
  }

  /** Forgets what is older. */
  keepFrom(oldest: Position): void {
    let older = 0;
    while (older < this.messages.length && compare(this.messages[older]!, oldest) < 0) older++;
    for (const { messageId } of this.messages.splice(0, older)) {
      this.byId.delete(messageId);
      this.putAside(messageId);
    }
  }

  private insert(message: Message): void {
    let low = this.messages.length;
    // Almost always it is the newest.
    while (low > 0 && compare(this.messages[low - 1]!, message) > 0) low--;
    this.messages.splice(low, 0, message);
    this.byId.set(message.messageId, message);
    this.aside.delete(message.messageId);
  }
}
