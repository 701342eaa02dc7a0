import { ANSWER_MS, type AnswerTo, Connection } from "./connection.js";
import { backoff, type Environment, environment as standard } from "./environment.js";
import type {
  ClientEvents,
  Message,
  MessageFailed,
  MessagePositioned,
  MessagesRead,
  Missed,
} from "./generated/events.js";
import { Outbox, type TabMessage } from "./outbox.js";
import { indexedDbStore, memoryStore } from "./store.js";
import { type Followed, Sync } from "./sync.js";
import { Tabs } from "./tabs.js";
import { compare } from "./timeline.js";
import {
  type Content,
  type Events,
  HoldfastError,
  type OutboxStore,
  type Sending,
  type Status,
  type ViewMessage,
} from "./types.js";

const ASK_MS = 30_000;
const BACKOFF_FIRST_MS = 300;
const BACKOFF_MOST_MS = 5_000;

/** How to connect. */
export interface ConnectOptions {
  /** The gateway's address. */
  url: string;
  /** The user's token; with `refresh` a new one, because the gateway did not accept the last. */
  getToken(options: { refresh: boolean }): string | Promise<string>;
  /** The token's `sub`. Given, the outbox is there before the first token, as after a start without a network. */
  userId?: string;
  /** Where the outbox is kept; otherwise IndexedDB, or memory where there is none. */
  store?: OutboxStore;
  /** Further options of socket.io-client. */
  socketOptions?: Record<string, unknown>;
  /** Time, chance, network and tabs, for tests and for other platforms. */
  environment?: Partial<Environment>;
}

type Listener = (payload: never) => void;

/** Connects, and stays connected until `close`. */
export function connect(options: ConnectOptions): Client {
  return new Client(options);
}

/** A user's connection, outbox and chats. */
export class Client {
  /** Resolves once it is known who the user is. */
  readonly ready: Promise<void>;
  private readonly environment: Environment;
  private readonly connection: Connection;
  private readonly sync: Sync;
  private readonly outbox: Outbox;
  private readonly listeners = new Map<string, Set<Listener>>();
  private readonly chats = new Map<string, Chat>();
  private readonly changed = new Set<string>();
  private readonly stopListening: () => void;
  private tabs: Tabs<TabMessage> | undefined;
  private user: string | undefined;
  private store: OutboxStore | undefined;
  private known!: (store: OutboxStore) => void;
  private unknown!: (error: Error) => void;
  private closed = false;

  /** Use `connect`. */
  constructor(private readonly options: ConnectOptions) {
    this.environment = { ...standard(), ...options.environment };
    const store = new Promise<OutboxStore>((resolve, reject) => {
      this.known = resolve;
      this.unknown = reject;
    });
    this.ready = store.then(() => {});
    this.ready.catch(() => {});
    this.connection = new Connection(
      this.environment,
      {
        token: (refresh) => this.token(refresh),
        auth: (token) => {
          const offsets = this.sync.offsets();
          return { token, ...(offsets && { offsets }) };
        },
        status: (status) => this.turned(status),
        event: (name, payload) => this.told(name, payload),
        error: (error) => this.emit("error", error),
      },
      options.url,
      options.socketOptions ?? {},
    );
    this.sync = new Sync(this.environment, this.connection, {
      message: (message) => this.emit("newMessage", message),
      retracted: (failed) => this.emit("messageFailed", failed),
      changed: (chatId) => this.touch(chatId),
      synced: () => this.emit("synced", undefined),
    });
    this.outbox = new Outbox(this.environment, this.connection, store, {
      sent: (message) => this.sync.sent(message),
      changed: (chatId) => this.touch(chatId),
      error: (error) => this.emit("error", error),
      tell: (message) => this.tabs?.tell(message),
      takeOver: () => this.tabs?.takeOver(),
    });
    this.stopListening = this.environment.onNetwork(() => {
      this.connection.probe();
      if (this.store) void this.outbox.reload();
    });
    if (options.userId !== undefined) this.identify(options.userId);
    this.connection.open();
  }

  get status(): Status {
    return this.connection.status;
  }

  /** The token's `sub`; absent until the first token, unless it was given. */
  get userId(): string | undefined {
    return this.user;
  }

  /** A chat by its id. */
  chat(chatId: string): Chat {
    let chat = this.chats.get(chatId);
    if (!chat) {
      chat = new Chat(chatId, this as unknown as Internals);
      this.chats.set(chatId, chat);
      this.sync.follow(chatId);
    }
    return chat;
  }

  /** The chat with another user. Only once the client is `ready`, or if it was given the `userId`. */
  direct(friendId: string): Chat {
    if (this.user === undefined)
      throw new Error("who the user is is not known yet: wait for client.ready, or give userId");
    return this.chat([this.user, friendId].sort().join(":"));
  }

  /** Asks the gateway, and again while it can't answer, for up to 30 s. */
  request<Name extends Exclude<keyof ClientEvents, "sendMessage" | "resume">>(
    event: Name,
    payload: ClientEvents[Name]["request"],
  ): Promise<ClientEvents[Name]["answer"]> {
    return this.ask(event, payload);
  }

  /** Listens. Returns how to stop that. */
  on<Name extends keyof Events>(event: Name, listener: (payload: Events[Name]) => void): () => void {
    const listeners = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, listeners.add(listener as Listener));
    return () => void listeners.delete(listener as Listener);
  }

  /** Ends the connection. What is in the outbox stays there, for another tab or the next start. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.unknown(closed());
    this.stopListening();
    this.outbox.close();
    this.sync.close();
    this.connection.close();
    this.tabs?.close();
    this.store?.close();
    this.listeners.clear();
  }

  private async token(refresh: boolean): Promise<string> {
    const token = await this.options.getToken({ refresh });
    if (this.closed) throw closed();
    const user = subject(token);
    if (this.user === undefined) this.identify(user);
    else if (user !== this.user) throw new Error(`the token is of ${user}, not of ${this.user}`);
    return token;
  }

  private identify(user: string): void {
    this.user = user;
    const { store: given, url } = this.options;
    const { indexedDB } = this.environment;
    const name = `holdfast ${url} ${user}`;
    this.store = given ?? (indexedDB ? indexedDbStore(indexedDB, name) : memoryStore());
    this.tabs = new Tabs<TabMessage>(this.environment, name, (message) => {
      this.outbox.told(message);
      // Whoever has something to send should not wait for this tab's next attempt to connect.
      if (message.type === "added") this.connection.kick();
    });
    this.tabs.elect(this.store, given !== undefined || indexedDB !== undefined, (sender) => this.outbox.lead(sender));
    this.known(this.store);
    void this.outbox.reload();
  }

  private turned(status: Status): void {
    if (status === "online") {
      this.sync.up();
      this.outbox.up();
    } else {
      this.sync.down();
    }
    this.emit("status", status);
  }

  private told(name: string, payload: unknown): void {
    // These two are told by `sync`: each message once, and only what was there can be taken back.
    if (name === "newMessage") this.sync.newMessage(payload as Message);
    else if (name === "messageFailed") this.sync.failed(payload as MessageFailed);
    else if (name === "messagePositioned") this.sync.positioned(payload as MessagePositioned);
    else if (name === "resumed") this.sync.resumed(payload as Missed);
    else if (name === "resync") this.sync.resync();
    else if (name === "messagesRead")
      this.chats.get((payload as MessagesRead).chatId)?.wasRead(payload as MessagesRead);
    if (name !== "newMessage" && name !== "messageFailed") this.emit(name as keyof Events, payload as never);
  }

  private emit<Name extends keyof Events>(event: Name, payload: Events[Name]): void {
    for (const listener of [...(this.listeners.get(event) ?? [])]) guarded(() => listener(payload as never));
  }

  /** Tells once, however much changes at a time. */
  private touch(chatId: string): void {
    const chat = this.chats.get(chatId);
    if (!chat) return;
    chat.stale();
    if (this.changed.size === 0) {
      queueMicrotask(() => {
        const changed = [...this.changed];
        this.changed.clear();
        for (const id of changed) this.chats.get(id)?.tell();
      });
    }
    this.changed.add(chatId);
  }

  private async ask<Name extends keyof ClientEvents>(
    event: Name,
    payload: ClientEvents[Name]["request"],
    enough: (answer: ClientEvents[Name]["answer"]) => boolean = () => true,
  ): Promise<ClientEvents[Name]["answer"]> {
    const until = this.environment.now() + ASK_MS;
    let last = new HoldfastError("TIMEOUT", "not answered", true);
    for (let attempt = 0; ; attempt++) {
      if (this.closed) throw closed();
      let wait = backoff(this.environment, attempt, BACKOFF_FIRST_MS, BACKOFF_MOST_MS);
      const answer: AnswerTo<Name> | undefined = await this.connection
        .request(event, payload, ANSWER_MS)
        .catch(() => undefined);
      if (answer?.ok) {
        if (enough(answer)) return answer;
        last = new HoldfastError("UNAVAILABLE", "the store can't be asked now", true);
      } else if (answer) {
        const { error } = answer;
        last = HoldfastError.of(error);
        if (!error.retryable && error.code !== "UNAUTHENTICATED") throw last;
        wait = Math.max(wait, error.retryAfterMs ?? 0);
      }
      if (this.environment.now() + wait >= until) throw last;
      await this.pause(wait);
    }
  }

  /** Until then, or until there is a connection if there is none. */
  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        this.environment.clearTimeout(timer);
        stop();
        resolve();
      };
      const timer = this.environment.setTimeout(end, ms);
      const stop = this.status === "online" ? () => {} : this.on("status", (status) => status === "online" && end());
    });
  }
}

/** What a chat uses of its client. */
interface Internals {
  user: string | undefined;
  environment: Environment;
  outbox: Outbox;
  sync: Sync;
  connection: Connection;
  ask<Name extends keyof ClientEvents>(
    event: Name,
    payload: ClientEvents[Name]["request"],
    enough?: (answer: ClientEvents[Name]["answer"]) => boolean,
  ): Promise<ClientEvents[Name]["answer"]>;
}

/** A chat: what is seen of it, and what can be done in it. */
export class Chat {
  /** Up to which message every other member has read, as far as it was told. */
  readonly reads: ReadonlyMap<string, string> = new Map();
  private view: readonly ViewMessage[] | undefined;
  private readonly listeners = new Set<() => void>();

  /** Use `client.chat`. */
  constructor(
    readonly id: string,
    private readonly client: Internals,
  ) {}

  /** What is to be seen, oldest first; the same array until it changes. One's own sends that are not durable yet come last. */
  get messages(): readonly ViewMessage[] {
    this.view ??= this.look();
    return this.view;
  }

  /** Whether the beginning of the chat has been read. */
  get complete(): boolean {
    return this.followed.opened && this.followed.cursor === undefined;
  }

  /** Calls after each change of `messages`. Returns how to stop that. */
  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };

  /** Sends: now, or whenever that is possible. */
  send(content: string | Content): Sending {
    return this.client.outbox.send(this.id, typeof content === "string" ? { content } : content);
  }

  /** Sends again what `failed`. */
  retry(tempId: string): Promise<void> {
    return this.client.outbox.retry(tempId);
  }

  /** Gives up a send. One that was on its way may still appear. */
  discard(tempId: string): Promise<void> {
    return this.client.outbox.discard(tempId);
  }

  /** Reads a page into `messages`: the newest first, then the next older one with each call. Newest message first; none at the end. */
  history({ limit = 20 }: { limit?: number } = {}): Promise<Message[]> {
    return this.client.sync.page(this.id, (before, partial) =>
      this.client.ask("history", { chatId: this.id, limit, ...(before !== undefined && { before }) }, (page) => {
        if (!page.complete) partial(page.messages);
        return page.complete;
      }),
    );
  }

  /** Says up to where the chat is read: the newest message of the others, unless another is given. Returns how much is unread. */
  async markRead(upTo?: string): Promise<number> {
    const { messages } = this.followed.timeline;
    const newest = messages.filter((message) => message.senderId !== this.client.user).pop();
    const message = upTo ?? newest?.messageId;
    if (message === undefined) return 0;
    return (await this.client.ask("markRead", { chatId: this.id, upTo: message })).unread;
  }

  /** Says that the user types, or no longer: `true` again every 2 or 3 s. Lost without a trace if there is no connection. */
  typing(typing: boolean): void {
    this.client.connection.request("typing", { chatId: this.id, typing }).catch(() => {});
  }

  /** @internal */
  wasRead({ userId, upTo }: MessagesRead): void {
    (this.reads as Map<string, string>).set(userId, upTo);
    this.stale();
    this.tell();
  }

  /** @internal */
  stale(): void {
    this.view = undefined;
  }

  /** @internal */
  tell(): void {
    for (const listener of [...this.listeners]) guarded(listener);
  }

  private get followed(): Followed {
    return this.client.sync.follow(this.id);
  }

  private look(): ViewMessage[] {
    const { user, outbox } = this.client;
    const { timeline } = this.followed;
    let read: Message | undefined;
    for (const [userId, upTo] of this.reads) {
      const message = userId === user ? undefined : timeline.get(upTo);
      if (message && (!read || compare(message, read) > 0)) read = message;
    }
    const shown = new Set<string>();
    const lines = timeline.messages.map((message): ViewMessage => {
      const { seq: _, epoch: __, receiverId: ___, ...line } = message;
      const key = message.messageId;
      if (message.senderId !== user) return { ...line, key, status: "received" };
      const pending = outbox.has(message.tempId);
      if (!pending || pending.chatId !== this.id) {
        return { ...line, key: message.tempId ?? key, status: read && compare(message, read) <= 0 ? "read" : "sent" };
      }
      // Shown already, but not promised yet.
      shown.add(pending.tempId);
      return { ...line, key: pending.tempId, ...standing(pending) };
    });
    for (const pending of outbox.of(this.id)) {
      if (shown.has(pending.tempId)) continue;
      const { tempId, chatId, content, imageUrl, publicId, createdAt } = pending;
      lines.push({
        key: tempId,
        tempId,
        chatId,
        senderId: user ?? "",
        content,
        ...(imageUrl !== undefined && { imageUrl }),
        ...(publicId !== undefined && { publicId }),
        timestamp: createdAt,
        ...standing(pending),
      });
    }
    return lines;
  }
}

function standing({ failed }: { failed?: ViewMessage["error"] }): Pick<ViewMessage, "status" | "error"> {
  return failed ? { status: "failed", error: failed } : { status: "sending" };
}

const closed = () => new HoldfastError("CLOSED", "the client was closed");

/** A listener's mistake is its own: it is reported, and stops nothing here. */
function guarded(run: () => void): void {
  try {
    run();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Whose a token is; whether it is valid is the gateway's to say. */
function subject(token: string): string {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const { sub } = JSON.parse(atob(payload));
    if (typeof sub === "string") return sub;
  } catch {}
  throw new Error("the token is no JWT with a sub");
}
