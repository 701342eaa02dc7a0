import type { AnswerTo, Connection } from "./connection.js";
import { ANSWER_MS } from "./connection.js";
import { backoff, type Environment } from "./environment.js";
import type {
  HistoryPage,
  Message,
  MessageFailed,
  MessagePositioned,
  Missed,
  MissedOfChat,
  Offset,
  Refusal,
} from "./generated/events.js";
import { GAP_MS, Place } from "./place.js";
import { compare, Timeline } from "./timeline.js";

/** How far before the last good moment history is read again: what was delayed is older than its arrival. */
const BACK_MS = 60_000;
/** More than so many pages are not read again; the view starts anew at the last of them. */
const REFETCH_PAGES = 5;
const PAGE = 100;
const RESUME_CHATS = 100;
/** What one handshake or `resume` recovers at most. */
const OFFSETS_MOST = 1_000;
/** Of a chat that nobody looks at. */
const UNOPENED_MESSAGES = 200;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 30_000;

/** What is known of one chat. */
export class Followed {
  readonly timeline = new Timeline();
  readonly place = new Place();
  /** Resuming does not help: history has to be read. */
  refetch = false;
  /** The first page of history was read. */
  opened = false;
  /** The next page of history. */
  cursor: string | undefined;
  /** Older messages belong to pages that were not read. Absent: there are none. */
  bottom: Message | undefined;
  /** The newest message when everything was known last. */
  good = 0;
  retryAt = 0;
  attempts = 0;
  /** Not permitted, or gone. */
  refused = false;
  /** Pages are read one after the other. */
  queue: Promise<unknown> = Promise.resolve();

  constructor(readonly chatId: string) {}

  /** Whether it was not known. What is older than what is shown comes with its page. */
  take(message: Message, asStored = false): boolean {
    const { bottom, timeline } = this;
    const fresh = !timeline.knows(message.messageId);
    if (bottom && compare(message, bottom) < 0 && !timeline.get(message.messageId))
      timeline.putAside(message.messageId);
    else timeline.add(message, asStored);
    return fresh;
  }

  /**
   * What is shown of a message that comes with another time. It was taken back while we were away, and sent again; or sent again when
   * nobody remembered it, as after a gateway was killed that had shown it and not listed it yet. Its new time may be the wrong one as well.
   */
  doubts({ messageId, timestamp }: Message): Message | undefined {
    const known = this.timeline.get(messageId);
    return known && known.timestamp !== timestamp ? known : undefined;
  }

  /** Has history asked for the time of a message, which may be an old one. */
  doubt({ timestamp }: Message): void {
    this.refetch = true;
    this.good = Math.min(this.good, timestamp);
  }

  /** When it has to be asked for; never, if nothing is missing. */
  dueAt(): number {
    if (this.refused) return Number.POSITIVE_INFINITY;
    if (this.place.stale || this.refetch) return this.retryAt;
    return this.place.gapSince === undefined
      ? Number.POSITIVE_INFINITY
      : Math.max(this.retryAt, this.place.gapSince + GAP_MS);
  }
}

export interface SyncHooks {
  message(message: Message): void;
  retracted(failed: MessageFailed): void;
  changed(chatId: string): void;
  synced(): void;
}

/** Asks for the page at a cursor until it is complete; what comes before that goes to `partial`. */
export type Ask = (before: string | undefined, partial: (messages: Message[]) => void) => Promise<HistoryPage>;

/** An answer that was no use, and how long the server asks to wait. */
class NotNow extends Error {
  constructor(readonly retryAfterMs = 0) {
    super("not now");
  }
}

/** Follows the live streams of chats, so that nothing is missed and nothing is told twice. */
export class Sync {
  readonly chats = new Map<string, Followed>();
  private timer: unknown;
  private pumping = false;
  private notBefore = 0;
  private attempts = 0;
  private wasBehind = false;

  constructor(
    private readonly environment: Environment,
    private readonly connection: Connection,
    private readonly hooks: SyncHooks,
  ) {}

  /** Where each chat's stream was left, for the handshake. */
  offsets(): Record<string, Offset> | undefined {
    const offsets: Record<string, Offset> = {};
    let count = 0;
    for (const { chatId, place } of this.chats.values()) {
      if (place.epoch === null || ++count > OFFSETS_MOST) continue;
      offsets[chatId] = { epoch: place.epoch, seq: place.seq };
    }
    return count > 0 ? offsets : undefined;
  }

  up(): void {
    this.attempts = 0;
    const offsets = this.offsets();
    // `resumed` comes by itself; should it not, it is asked for.
    this.notBefore = offsets ? this.environment.now() + ANSWER_MS : 0;
    this.behind();
  }

  down(): void {
    this.environment.clearTimeout(this.timer);
  }

  close(): void {
    this.down();
    this.chats.clear();
  }

  newMessage(message: Message): void {
    const chat = this.followed(message);
    const doubted = chat.doubts(message);
    const fresh = chat.take(message);
    if (doubted) chat.doubt(doubted);
    chat.place.advance(message.epoch, message.seq, this.environment.now());
    this.told(chat, message, fresh);
  }

  /** A message that is durable, as its sender was told. */
  sent(message: Message): void {
    const chat = this.followed(message);
    chat.timeline.isDurable(message.messageId);
    const fresh = chat.take(message, true);
    chat.place.advance(message.epoch, message.seq, this.environment.now());
    this.told(chat, message, fresh);
  }

  positioned({ chatId, messageId, epoch, seq }: MessagePositioned): void {
    const chat = this.chats.get(chatId);
    // Of a message that is not here, the position stays missing: that is a gap.
    if (!chat?.timeline.knows(messageId)) return;
    chat.place.advance(epoch, seq, this.environment.now());
    this.settle(chat);
  }

  failed(failed: MessageFailed): void {
    if (!this.chats.get(failed.chatId)?.timeline.retract(failed.messageId)) return;
    this.hooks.retracted(failed);
    this.hooks.changed(failed.chatId);
  }

  resync(): void {
    this.notBefore = 0;
    this.behind();
  }

  resumed({ chats }: Missed): void {
    this.notBefore = 0;
    for (const [chatId, missed] of Object.entries(chats ?? {})) {
      const chat = this.chats.get(chatId);
      if (chat) this.recover(chat, missed);
    }
    void this.pump();
  }

  /** The chat, followed from now on. */
  follow(chatId: string): Followed {
    const known = this.chats.get(chatId);
    if (known) return known;
    const chat = new Followed(chatId);
    // Nothing is missing in what was not asked for yet.
    chat.place.stale = false;
    this.chats.set(chatId, chat);
    return chat;
  }

  /** A page of history: the newest one, then the next older one each time. */
  page(chatId: string, ask: Ask): Promise<Message[]> {
    const chat = this.follow(chatId);
    const read = async () => {
      if (chat.opened && !chat.cursor) return [];
      const page = await ask(chat.opened ? chat.cursor : undefined, (messages) => {
        // Not all that there is, but something to be seen.
        for (const message of messages) chat.timeline.add(message);
        if (!chat.opened) chat.bottom ??= messages[messages.length - 1];
        this.hooks.changed(chatId);
      });
      const oldest = page.messages[page.messages.length - 1];
      if (!chat.opened) {
        // What came before this page may lack something that came before the first live message.
        if (oldest && page.nextCursor) chat.timeline.keepFrom(oldest);
        chat.opened = true;
        chat.refused = false;
        chat.bottom = undefined;
        this.positionOf(chat, page);
      }
      for (const message of page.messages) chat.timeline.add(message, true);
      chat.cursor = page.nextCursor;
      chat.bottom = page.nextCursor ? (oldest ?? chat.bottom) : undefined;
      this.settle(chat);
      this.hooks.changed(chatId);
      return page.messages;
    };
    const result = chat.queue.then(read);
    chat.queue = result.catch(() => {});
    return result;
  }

  private followed(message: Message): Followed {
    const chat = this.follow(message.chatId);
    if (!chat.opened && !chat.bottom) {
      chat.bottom = message;
      chat.place.begin(message.epoch, message.seq, this.environment.now());
      if (chat.place.stale) this.later(chat);
    } else if (chat.refused) {
      // It belongs to us again.
      chat.refused = false;
      chat.place.stale = true;
    }
    return chat;
  }

  private told(chat: Followed, message: Message, fresh: boolean): void {
    if (fresh) this.hooks.message(message);
    const { messages } = chat.timeline;
    if (!chat.opened && messages.length > UNOPENED_MESSAGES) {
      chat.bottom = messages[messages.length - UNOPENED_MESSAGES / 2]!;
      chat.timeline.keepFrom(chat.bottom);
    }
    this.settle(chat);
    this.hooks.changed(chat.chatId);
  }

  /** Notes the good moment, or sees to it that one comes. */
  private settle(chat: Followed): void {
    if (chat.dueAt() === Number.POSITIVE_INFINITY) {
      chat.good = Math.max(chat.good, chat.timeline.newest?.timestamp ?? 0);
    }
    if (!this.pumping) void this.pump();
  }

  private behind(): void {
    for (const chat of this.chats.values()) {
      // What nobody read or received yet can't have missed anything.
      if (chat.opened || chat.bottom) chat.place.stale = true;
      chat.retryAt = 0;
    }
    this.wasBehind = true;
    void this.pump();
  }

  private positionOf(chat: Followed, page: Pick<HistoryPage, "epoch" | "seq">): void {
    chat.place.set(page.epoch, page.seq, this.environment.now());
    chat.refetch = false;
    if (chat.place.stale) this.later(chat);
    else chat.attempts = 0;
  }

  private later(chat: Followed, atLeast = 0): void {
    const wait = backoff(this.environment, chat.attempts++, BACKOFF_FIRST_MS, BACKOFF_MOST_MS);
    chat.retryAt = this.environment.now() + Math.max(wait, atLeast);
  }

  private recover(chat: Followed, missed: MissedOfChat | undefined): void {
    if (!missed?.recovered) {
      chat.refetch = true;
      return;
    }
    const doubted: Message[] = [];
    for (const message of missed.messages ?? []) {
      const known = chat.doubts(message);
      if (known) doubted.push(known);
      if (chat.take(message)) this.hooks.message(message);
    }
    this.positionOf(chat, missed);
    for (const known of doubted) chat.doubt(known);
    this.settle(chat);
    this.hooks.changed(chat.chatId);
  }

  /** Asks until nothing is missing. */
  private async pump(): Promise<void> {
    if (this.pumping) return;
    this.pumping = true;
    try {
      while (this.connection.status === "online" && this.notBefore <= this.environment.now()) {
        const now = this.environment.now();
        const due = [...this.chats.values()].filter((chat) => chat.dueAt() <= now);
        if (due.length === 0) break;
        const resumable = due.filter((chat) => chat.place.epoch !== null && !chat.refetch).slice(0, RESUME_CHATS);
        if (resumable.length > 0) await this.resume(resumable);
        else await this.read(due[0]!);
        this.attempts = 0;
      }
    } catch (error) {
      const wait = backoff(this.environment, this.attempts++, BACKOFF_FIRST_MS, BACKOFF_MOST_MS);
      this.notBefore = this.environment.now() + Math.max(wait, error instanceof NotNow ? error.retryAfterMs : 0);
    } finally {
      this.pumping = false;
    }
    this.schedule();
  }

  private schedule(): void {
    this.environment.clearTimeout(this.timer);
    if (this.connection.status !== "online") return;
    const next = Math.min(...[...this.chats.values()].map((chat) => chat.dueAt()));
    if (next !== Number.POSITIVE_INFINITY) {
      this.wasBehind = true;
      const wait = Math.max(next, this.notBefore) - this.environment.now();
      this.timer = this.environment.setTimeout(() => void this.pump(), Math.max(0, wait));
    } else if (this.wasBehind) {
      this.wasBehind = false;
      this.hooks.synced();
    }
  }

  private async resume(chats: Followed[]): Promise<void> {
    const offsets: Record<string, Offset> = {};
    for (const { chatId, place } of chats) {
      offsets[chatId] = { epoch: place.epoch!, seq: place.seq };
      place.gapSince = undefined;
      place.stale = true;
    }
    const answer = useful(await this.connection.request("resume", { offsets }));
    for (const chat of chats) this.recover(chat, answer.chats[chat.chatId]);
  }

  /** Reads history back to a while before the last good moment. */
  private read(chat: Followed): Promise<void> {
    const result = chat.queue.then(() => this.readAgain(chat));
    chat.queue = result.catch(() => {});
    return result;
  }

  private async readAgain(chat: Followed): Promise<void> {
    const until = chat.good - BACK_MS;
    let first: HistoryPage | undefined;
    let before: string | undefined;
    let oldest: Message | undefined;
    for (let pages = 0; ; pages++) {
      const request = { chatId: chat.chatId, limit: PAGE, ...(before !== undefined && { before }) };
      const answer: AnswerTo<"history"> = await this.connection.request("history", request);
      if (!answer.ok && isFinal(answer.error)) {
        chat.refused = true;
        chat.refetch = false;
        return;
      }
      const page = useful(answer);
      first ??= page;
      // A chat that nobody opened starts at its first live message, and an opened one where its pages end.
      const { bottom } = chat;
      for (const message of [...page.messages].reverse()) {
        if (bottom && compare(message, bottom) < 0) continue;
        if (chat.take(message, true)) this.hooks.message(message);
      }
      this.hooks.changed(chat.chatId);
      if (!page.complete) return this.later(chat);
      oldest = page.messages[page.messages.length - 1] ?? oldest;
      before = page.nextCursor;
      if (before === undefined || !oldest || oldest.timestamp < until) break;
      if (bottom && compare(oldest, bottom) < 0) break;
      if (pages + 1 >= REFETCH_PAGES) {
        // Too much was missed: what is older is read again when somebody pages back to it.
        chat.timeline.keepFrom(oldest);
        chat.bottom = oldest;
        if (chat.opened) chat.cursor = before;
        break;
      }
    }
    this.positionOf(chat, first);
    this.settle(chat);
  }
}

const isFinal = ({ code, retryable }: Refusal) => !retryable && code !== "UNAUTHENTICATED";

function useful<T>(answer: ({ ok: true } & T) | { ok: false; error: Refusal }): T {
  if (answer.ok) return answer;
  throw new NotNow(answer.error.retryAfterMs);
}
