import type { Code, Message, ServerEvents } from "./generated/events.js";

/** Where the connection stands. */
export type Status = "connecting" | "online" | "offline";

/** Why a send failed for good: what the server said, or `STORAGE` if the outbox could not keep it. */
export interface Failure {
  code: Code | "STORAGE";
  message: string;
}

/** What became of one's own message. Durable from `sent` on. */
export type SendStatus = "sending" | "failed" | "sent" | "read";

/** A line of the view of a chat. */
export interface ViewMessage {
  /** The same from the first `sending` to the end: a key for lists. */
  key: string;
  /** Absent as long as the server has not shown the message. */
  messageId?: string;
  tempId?: string;
  chatId: string;
  senderId: string;
  content: string;
  imageUrl?: string;
  publicId?: string;
  /** The server's time, in Unix epoch milliseconds; this device's, as long as there is no `messageId`. */
  timestamp: number;
  /** `received` for the messages of others. */
  status: SendStatus | "received";
  /** Why it `failed`. */
  error?: Failure;
}

/** What is sent. */
export interface Content {
  content: string;
  imageUrl?: string;
  publicId?: string;
  /** Only to repeat a send of one's own outbox; a new one is made otherwise. */
  tempId?: string;
}

/** A send, from the moment it was asked for. */
export interface Sending {
  tempId: string;
  /** Resolves once the outbox has it: from here on it survives the page. */
  kept: Promise<void>;
  /** Resolves once the message is durable; rejects with a `HoldfastError` when it can't be sent. It may be ignored. */
  sent: Promise<Message>;
}

/** A send in the outbox. */
export interface OutboxEntry {
  /** Its place in the order of sends. */
  key: number;
  tempId: string;
  chatId: string;
  content: string;
  imageUrl?: string;
  publicId?: string;
  createdAt: number;
  /** Failed for good, until somebody says `retry`. */
  failed?: Failure;
}

/** Where the outbox is kept. All tabs of one user at one server share one. */
export interface OutboxStore {
  /** Keeps a send, durably, and returns a `key` that is higher than all before it. */
  add(entry: Omit<OutboxEntry, "key">): Promise<number>;
  /** Replaces the send with this key. */
  put(entry: OutboxEntry): Promise<void>;
  remove(key: number): Promise<void>;
  /** All of them, by key. */
  all(): Promise<OutboxEntry[]>;
  /** Whether `owner` is, until `until`, the only tab that sends. Only needed where there are tabs without Web Locks. */
  lease?(owner: string, now: number, until: number): Promise<boolean>;
  close(): void;
}

/** What a client tells. */
export interface Events extends ServerEvents {
  /** The connection's new state. */
  status: Status;
  /** Nothing is missing in any chat that is followed. What the server does not repeat (conversations, presence) can be read anew now. */
  synced: undefined;
  /** What no call can report: a token that could not be had, a store that failed. */
  error: Error;
}

/** A request that was refused, or not answered in time. */
export class HoldfastError extends Error {
  override name = "HoldfastError";
  constructor(
    readonly code: Code | "STORAGE" | "TIMEOUT" | "CLOSED",
    message: string,
    readonly retryable = false,
  ) {
    super(message);
  }
  static of({ code, message, retryable }: Failure & { retryable?: boolean }): HoldfastError {
    return new HoldfastError(code, message, retryable);
  }
}
