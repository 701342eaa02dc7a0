import type { AnswerTo, Connection } from "./connection.js";
import { ANSWER_MS, Unanswered } from "./connection.js";
import { backoff, type Environment } from "./environment.js";
import type { Message, Refusal } from "./generated/events.js";
import {
  type Content,
  type Failure,
  HoldfastError,
  type OutboxEntry,
  type OutboxStore,
  type Sending,
} from "./types.js";

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 30_000;
const CHECK_MS = 2_000;
/** How long the tab that sends may take to say that it is there, and when it is asked again. */
const THERE_MS = 3_000;
const THERE_AGAIN_MS = 20_000;

/** What the tabs of one user tell each other. */
export type TabMessage =
  | { type: "adding" }
  /** Whether the tab that sends is there and has a connection, and that it is. */
  | { type: "there" }
  | { type: "here" }
  | { type: "added"; entry: OutboxEntry }
  | { type: "sent"; entry: OutboxEntry; message: Message }
  | { type: "failed"; tempId: string; failed: Failure }
  | { type: "retry"; tempId: string }
  | { type: "discard"; tempId: string };

/** A send, as this tab knows it. */
export interface Pending extends OutboxEntry {
  retryAt: number;
  attempts: number;
}

export interface OutboxHooks {
  sent(message: Message): void;
  changed(chatId: string): void;
  error(error: Error): void;
  tell(message: TabMessage): void;
  /** The tab that sends does not answer. */
  takeOver(): void;
}

interface Waiting extends Sending {
  resolve(message: Message): void;
  reject(error: HoldfastError): void;
}

/**
 * Keeps every send until the server has said that it is durable, and repeats it until then, always with its first `tempId`: however
 * often that is, it is one message. One chat's sends go one after the other, in order; different chats do not wait for each other.
 */
export class Outbox {
  /** Whether this tab is the one that sends. */
  private sender = false;
  private readonly pending = new Map<string, Pending>();
  private readonly waiting = new Map<string, Waiting>();
  private readonly busy = new Set<string>();
  /** What has left the outbox while the store was being read. */
  private readonly left = new Set<string>();
  private reads = 0;
  private readAgain = false;
  private timer: unknown;
  private check: unknown;
  private watch: unknown;
  private asking = false;
  private pausedUntil = 0;
  private closed = false;

  constructor(
    private readonly environment: Environment,
    private readonly connection: Connection,
    private readonly store: Promise<OutboxStore>,
    private readonly hooks: OutboxHooks,
  ) {
    // Whoever uses it says so.
    store.catch(() => {});
  }

  /** What of a chat is not durable yet, in the order of sending. */
  of(chatId: string): Pending[] {
    return [...this.pending.values()].filter((entry) => entry.chatId === chatId).sort(byKey);
  }

  has(tempId: string | undefined): Pending | undefined {
    return tempId === undefined ? undefined : this.pending.get(tempId);
  }

  send(chatId: string, { tempId = this.environment.uuid(), content, imageUrl, publicId }: Content): Sending {
    const known = this.waiting.get(tempId);
    if (known) return known;
    const kept = this.pending.get(tempId);
    const entry: Pending = kept ?? {
      // Its place is the store's to say.
      key: Number.POSITIVE_INFINITY,
      tempId,
      chatId,
      content,
      ...(imageUrl !== undefined && { imageUrl }),
      ...(publicId !== undefined && { publicId }),
      createdAt: this.environment.now(),
      retryAt: 0,
      attempts: 0,
    };
    const waiting = {} as Waiting;
    waiting.tempId = tempId;
    waiting.sent = new Promise((resolve, reject) => Object.assign(waiting, { resolve, reject }));
    waiting.sent.catch(() => {});
    this.waiting.set(tempId, waiting);
    this.pending.set(tempId, entry);
    // One that has been there since before a reload is only waited for, or tried again.
    waiting.kept = kept ? this.retry(tempId) : this.keep(entry);
    waiting.kept.catch(() => {});
    this.hooks.changed(chatId);
    return waiting;
  }

  /** Sends again what failed. */
  async retry(tempId: string): Promise<void> {
    const entry = this.pending.get(tempId);
    if (!entry?.failed) return;
    this.again(entry);
    if (entry.key === Number.POSITIVE_INFINITY) return this.keep(entry);
    await this.stored((store) => store.put(plain(entry)));
    this.hooks.tell({ type: "retry", tempId });
    this.pump();
  }

  /** Forgets a send. One that was on its way may still appear. */
  async discard(tempId: string): Promise<void> {
    const entry = this.pending.get(tempId);
    if (!entry) return;
    this.leave(entry);
    this.waiting.get(tempId)?.reject(new HoldfastError("CLOSED", "discarded"));
    this.waiting.delete(tempId);
    this.hooks.changed(entry.chatId);
    if (entry.key !== Number.POSITIVE_INFINITY) await this.stored((store) => store.remove(entry.key));
    this.hooks.tell({ type: "discard", tempId });
    this.pump();
  }

  /** Another tab has told something. */
  told(message: TabMessage): void {
    if (message.type === "adding") {
      // Should that tab end before it can say more, this one finds what it has left.
      this.check ??= this.environment.setTimeout(() => {
        this.check = undefined;
        void this.reload();
      }, CHECK_MS);
    } else if (message.type === "there") {
      // By a timer, because a page may be half asleep: without timers it can't send.
      this.environment.setTimeout(() => {
        if (this.able) this.hooks.tell({ type: "here" });
      }, 0);
    } else if (message.type === "here") {
      this.asking = false;
      this.watchFor(THERE_AGAIN_MS, () => void this.reload());
    } else if (message.type === "added") {
      if (!this.pending.has(message.entry.tempId)) this.adopt(message.entry);
      this.lookForSender();
    } else if (message.type === "sent") {
      this.durable(message.entry, message.message);
    } else {
      const entry = this.pending.get(message.tempId);
      // It may be in what is being read, as it was before.
      if (!entry) this.readAgain = this.reads > 0;
      if (!entry) return;
      if (message.type === "failed") this.give(entry, message.failed);
      else if (message.type === "retry") this.again(entry);
      else this.leave(entry);
      this.hooks.changed(entry.chatId);
    }
    this.pump();
  }

  /** From now on this tab sends, or no longer. */
  lead(sender: boolean): void {
    this.sender = sender;
    if (sender) {
      // Whoever else was about to take over need not.
      this.hooks.tell({ type: "here" });
      void this.reload();
    } else {
      this.lookForSender();
    }
  }

  /** Compares with what is stored: what a tab that is gone has left is ours now. */
  async reload(): Promise<void> {
    const before = [...this.pending.values()].filter((entry) => entry.key !== Number.POSITIVE_INFINITY);
    this.reads++;
    try {
      const stored = await (await this.store).all();
      const keys = new Set(stored.map((entry) => entry.key));
      for (const entry of stored) {
        const known = this.pending.get(entry.tempId);
        if (known) {
          if (entry.failed && !known.failed && !this.busy.has(entry.chatId)) this.give(known, entry.failed);
        } else if (!this.left.has(entry.tempId)) {
          this.adopt(entry);
        }
      }
      for (const entry of before) {
        if (keys.has(entry.key) || this.pending.get(entry.tempId) !== entry) continue;
        this.leave(entry);
        this.hooks.changed(entry.chatId);
      }
    } catch (error) {
      this.trouble(error);
    } finally {
      if (--this.reads === 0) this.left.clear();
    }
    if (this.readAgain && this.reads === 0) {
      this.readAgain = false;
      void this.reload();
    }
    this.lookForSender();
    this.pump();
  }

  /** The connection is there again: nothing has to wait any longer. */
  up(): void {
    for (const entry of this.pending.values()) entry.retryAt = 0;
    this.lookForSender();
    this.pump();
  }

  close(): void {
    this.closed = true;
    this.environment.clearTimeout(this.timer);
    this.environment.clearTimeout(this.check);
    this.environment.clearTimeout(this.watch);
    for (const waiting of this.waiting.values()) {
      waiting.reject(new HoldfastError("CLOSED", "the client was closed; the outbox keeps the message", true));
    }
    this.waiting.clear();
  }

  pump(): void {
    if (!this.able) return;
    const now = this.environment.now();
    const first = new Map<string, Pending>();
    for (const entry of [...this.pending.values()].sort(byKey)) {
      if (entry.failed || entry.key === Number.POSITIVE_INFINITY || first.has(entry.chatId)) continue;
      first.set(entry.chatId, entry);
    }
    let next = Number.POSITIVE_INFINITY;
    for (const entry of first.values()) {
      if (this.busy.has(entry.chatId)) continue;
      const at = Math.max(entry.retryAt, this.pausedUntil);
      if (at <= now) void this.transmit(entry);
      else next = Math.min(next, at);
    }
    this.environment.clearTimeout(this.timer);
    if (next !== Number.POSITIVE_INFINITY) this.timer = this.environment.setTimeout(() => this.pump(), next - now);
  }

  private get able(): boolean {
    return !this.closed && this.sender && this.connection.status === "online";
  }

  private async keep(entry: Pending): Promise<void> {
    try {
      const store = await this.store;
      if (this.closed) throw new HoldfastError("CLOSED", "the client was closed");
      this.hooks.tell({ type: "adding" });
      entry.key = await store.add(withoutKey(entry));
    } catch (error) {
      if (this.closed) throw error;
      this.trouble(error);
      const failed: Failure = { code: "STORAGE", message: "the outbox can't keep it" };
      this.give(entry, failed);
      this.hooks.changed(entry.chatId);
      throw HoldfastError.of(failed);
    }
    if (this.closed) return;
    if (this.pending.get(entry.tempId) !== entry) {
      // Discarded in the meantime.
      await this.stored((store) => store.remove(entry.key));
      return;
    }
    this.hooks.tell({ type: "added", entry: plain(entry) });
    this.lookForSender();
    this.pump();
  }

  /** As long as something waits for another tab to send it: that tab has to be there. */
  private lookForSender(): void {
    const waits = [...this.pending.values()].some((entry) => !entry.failed);
    if (this.closed || this.sender || this.asking || !waits || this.connection.status !== "online") return;
    this.hooks.tell({ type: "there" });
    this.asking = true;
    // Not all tabs at the same moment.
    this.watchFor(THERE_MS * (1 + this.environment.random() / 2), () => {
      this.asking = false;
      if (!this.sender && this.connection.status === "online") this.hooks.takeOver();
    });
  }

  private watchFor(ms: number, run: () => void): void {
    this.environment.clearTimeout(this.watch);
    this.watch = this.environment.setTimeout(() => this.closed || run(), ms);
  }

  private async transmit(entry: Pending): Promise<void> {
    const { tempId, chatId, content, imageUrl, publicId } = entry;
    this.busy.add(chatId);
    const late = (answer: AnswerTo<"sendMessage">) => {
      if (answer.ok && this.pending.has(tempId)) this.accepted(entry, answer.message);
    };
    try {
      const body = {
        tempId,
        chatId,
        content,
        ...(imageUrl !== undefined && { imageUrl }),
        ...(publicId !== undefined && { publicId }),
      };
      const answer = await this.connection.request("sendMessage", body, ANSWER_MS, late);
      if (this.closed || this.pending.get(tempId) !== entry) {
        // Answered late to an earlier attempt, or discarded.
        if (answer.ok) this.hooks.sent(answer.message);
      } else if (answer.ok) {
        this.accepted(entry, answer.message);
      } else if (answer.error.retryable || answer.error.code === "UNAUTHENTICATED") {
        this.postpone(entry, answer.error);
      } else {
        await this.refused(entry, answer.error);
      }
    } catch (error) {
      // After a lost connection the next one decides when; and whether it was carried out makes no difference.
      if (error instanceof Unanswered && error.reason === "timeout") this.postpone(entry);
      else if (!(error instanceof Unanswered)) this.trouble(error);
    } finally {
      this.busy.delete(chatId);
      this.pump();
    }
  }

  private postpone(entry: Pending, refusal?: Refusal): void {
    const now = this.environment.now();
    const own = backoff(this.environment, entry.attempts++, BACKOFF_FIRST_MS, BACKOFF_MOST_MS);
    const asked = refusal?.retryAfterMs ?? 0;
    // Not before the server says, and not all at the same moment.
    entry.retryAt = now + (asked > 0 ? Math.max(asked + this.environment.random() * Math.min(asked, 1_000), own) : own);
    if (refusal?.code === "RATE_LIMITED") this.pausedUntil = Math.max(this.pausedUntil, now + asked);
  }

  private accepted(entry: Pending, message: Message): void {
    this.durable(entry, message);
    this.hooks.tell({ type: "sent", entry: plain(entry), message });
    // Should this fail, it is sent once more some day, and changes nothing.
    void this.stored((store) => store.remove(entry.key));
  }

  private durable({ tempId, chatId }: OutboxEntry, message: Message): void {
    const entry = this.pending.get(tempId);
    if (entry) this.leave(entry);
    this.hooks.sent(message);
    this.waiting.get(tempId)?.resolve(message);
    this.waiting.delete(tempId);
    this.hooks.changed(chatId);
  }

  private async refused(entry: Pending, { code, message }: Refusal): Promise<void> {
    const failed: Failure = { code, message };
    this.give(entry, failed);
    this.hooks.changed(entry.chatId);
    await this.stored((store) => store.put(plain(entry)));
    this.hooks.tell({ type: "failed", tempId: entry.tempId, failed });
  }

  private give(entry: Pending, failed: Failure): void {
    entry.failed = failed;
    this.waiting.get(entry.tempId)?.reject(HoldfastError.of(failed));
    this.waiting.delete(entry.tempId);
  }

  private again(entry: Pending): void {
    delete entry.failed;
    entry.retryAt = 0;
    entry.attempts = 0;
    this.hooks.changed(entry.chatId);
  }

  private adopt(entry: OutboxEntry): void {
    this.pending.set(entry.tempId, { ...entry, retryAt: 0, attempts: 0 });
    this.hooks.changed(entry.chatId);
  }

  private leave(entry: Pending): void {
    this.pending.delete(entry.tempId);
    if (this.reads > 0) this.left.add(entry.tempId);
  }

  private async stored(work: (store: OutboxStore) => Promise<void>): Promise<void> {
    try {
      await work(await this.store);
    } catch (error) {
      this.trouble(error);
    }
  }

  private trouble(error: unknown): void {
    this.hooks.error(error instanceof Error ? error : new Error(String(error)));
  }
}

const byKey = (one: OutboxEntry, other: OutboxEntry) => (one.key === other.key ? 0 : one.key - other.key);

function withoutKey({ retryAt: _, attempts: __, key: ___, ...entry }: Pending): Omit<OutboxEntry, "key"> {
  return entry;
}

const plain = (entry: Pending): OutboxEntry => ({ ...withoutKey(entry), key: entry.key });
