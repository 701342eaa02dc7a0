// biome-ignore-all lint/suspicious/noExplicitAny: what comes over a wire, before anybody has looked at it
// biome-ignore-all lint/correctness/noVoidTypeReturn: an answer is the end of a handler
// What the tests run a client in: a clock that is moved by hand, a gateway that forgets, delays and repeats, browsers with tabs.
import { createHash } from "node:crypto";
import { type Client, type ConnectOptions, connect } from "../src/client.js";
import type { Channel, Environment, SocketLike } from "../src/environment.js";
import type { Message } from "../src/generated/events.js";
import { indexedDbStore } from "../src/store.js";
import type { OutboxEntry, OutboxStore } from "../src/types.js";

export const LATENCY_MS = 5;
export const START = 1_767_225_600_000;

/** Everything that is waiting on promises alone has happened. */
const macrotask = () => new Promise<void>((resolve) => setImmediate(resolve));

export class Clock {
  now = START;
  /** Work in progress that is neither timers nor promises alone: a database's. */
  busy = 0;
  private timers: { at: number; order: number; run: () => void }[] = [];
  private order = 0;

  setTimeout(run: () => void, ms: number): unknown {
    const timer = { at: this.now + Math.max(0, ms), order: this.order++, run };
    this.timers.push(timer);
    return timer;
  }

  clearTimeout(timer: unknown): void {
    this.timers = this.timers.filter((known) => known !== timer);
  }

  async settle(): Promise<void> {
    do await macrotask();
    while (this.busy > 0);
  }

  async advance(ms: number): Promise<void> {
    const until = this.now + ms;
    await this.settle();
    for (;;) {
      const due = this.timers
        .filter(({ at }) => at <= until)
        .sort((one, other) => one.at - other.at || one.order - other.order);
      const next = due[0];
      if (!next) break;
      this.clearTimeout(next);
      this.now = Math.max(this.now, next.at);
      next.run();
      await this.settle();
    }
    this.now = until;
  }
}

/** A small generator with a seed: chance that repeats. */
export function chance(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function uuidOf(...parts: unknown[]): string {
  const hex = createHash("sha256").update(JSON.stringify(parts)).digest("hex");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/, "$1-$2-$3-$4-$5");
}

/** A JWT that nobody signed. */
export function tokenOf(user: string, more: object = {}): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub: user, ...more })}.x`;
}

export type SendFault =
  | "ok"
  | "lost request"
  | "lost answer"
  | "late answer"
  | "answered twice"
  | "unavailable"
  | "limited"
  | "shown and failed"
  | "unauthenticated"
  | "killed before answer";
export type LiveFault = "ok" | "lost" | "lost and resync" | "twice" | "late" | "without position";
export type HistoryFault = "ok" | "incomplete" | "unavailable" | "lost";
export type ResumeFault = "ok" | "not recovered" | "unavailable" | "lost";

interface Listing {
  seq: number;
  message: Message;
  tombstone?: boolean;
}

class ServerChat {
  epoch: string;
  seq = 0;
  stream: Listing[] = [];
  readonly durable = new Map<string, Message>();
  constructor(
    readonly chatId: string,
    epoch: string,
  ) {
    this.epoch = epoch;
  }
  /** History, oldest first. */
  get history(): Message[] {
    const listed = this.stream.filter(({ tombstone }) => !tombstone).map(({ message }) => message);
    const all = new Map([...listed, ...this.durable.values()].map((message) => [message.messageId, message]));
    return [...all.values()].sort(
      (one, other) => one.timestamp - other.timestamp || (one.messageId < other.messageId ? -1 : 1),
    );
  }
}

/** A gateway that keeps to the contract, in front of a network that does not. */
export class Server {
  readonly chats = new Map<string, ServerChat>();
  readonly connections = new Set<FakeSocket>();
  /** What happens to the next sends, and to the next live events; nothing, when they are used up. */
  sendFaults: SendFault[] = [];
  liveFaults: LiveFault[] = [];
  historyFaults: HistoryFault[] = [];
  resumeFaults: ResumeFault[] = [];
  network = true;
  tokens: (token: string) => boolean = () => true;
  /** Every sendMessage that arrived. */
  readonly arrived: { tempId: string; chatId: string; content: string; at: number; tab: Tab }[] = [];
  readonly retracted = new Set<string>();
  readonly asked: { event: string; payload: any; at: number }[] = [];
  onSend: (tab: Tab) => void = () => {};
  private epochs = 0;
  private stamp = 0;

  constructor(readonly clock: Clock) {}

  chat(chatId: string): ServerChat {
    const chat = this.chats.get(chatId) ?? new ServerChat(chatId, `epoch-${++this.epochs}`);
    this.chats.set(chatId, chat);
    return chat;
  }

  newEpoch(chatId: string): void {
    const chat = this.chat(chatId);
    chat.epoch = `epoch-${++this.epochs}`;
    chat.seq = 0;
    chat.stream = [];
    this.resync();
  }

  resync(): void {
    for (const connection of this.connections) connection.deliver("resync", {});
  }

  cut(): void {
    for (const connection of [...this.connections]) connection.lose("transport close");
  }

  handle(socket: FakeSocket, event: string, payload: any, reply: (answer: object, after?: number) => void): void {
    this.asked.push({ event, payload, at: this.clock.now });
    if (event === "sendMessage") this.send(socket, payload, reply);
    else if (event === "resume") this.resume(payload, reply);
    else if (event === "history") this.page(payload, reply);
    else if (event === "markRead") reply({ ok: true, unread: 0 });
    else if (event === "unread") reply({ ok: true, counts: {}, total: 0 });
    else reply({ ok: true });
  }

  private resume({ offsets }: any, reply: (answer: object) => void): void {
    const fault = Object.keys(offsets).length > 0 ? (this.resumeFaults.shift() ?? "ok") : "ok";
    if (fault === "unavailable") reply(refusal("UNAVAILABLE", true));
    else if (fault !== "lost") reply({ ok: true, ...this.missed(offsets, fault === "not recovered") });
  }

  missed(offsets: Record<string, { epoch: string; seq: number }>, none = false): { chats: object } {
    const chats: Record<string, object> = {};
    for (const [chatId, offset] of Object.entries(offsets)) {
      const chat = this.chat(chatId);
      const { epoch, seq } = chat;
      if (none || offset.epoch !== epoch) chats[chatId] = { recovered: false, epoch, seq };
      else {
        const missed = chat.stream.filter((listing) => listing.seq > offset.seq && !listing.tombstone);
        const messages = missed.map((listing) => ({ ...listing.message, epoch, seq: listing.seq }));
        chats[chatId] = { recovered: true, messages, epoch, seq };
      }
    }
    return { chats };
  }

  /** A message that becomes durable, and is shown. */
  accept(chatId: string, senderId: string, content: string, tempId: string): { message: Message; duplicate: boolean } {
    const chat = this.chat(chatId);
    const messageId = uuidOf(senderId, chatId, tempId, content);
    const known = chat.durable.get(messageId);
    if (known) return { message: known, duplicate: true };
    const { message, listing } = this.list(chat, { messageId, chatId, senderId, content, tempId });
    chat.durable.set(messageId, message);
    this.show(chat, listing);
    return { message: { ...message, epoch: chat.epoch, seq: listing.seq }, duplicate: false };
  }

  /** A message that is shown, and that nothing durable takes. */
  fail(chatId: string, senderId: string, content: string, tempId: string): void {
    const chat = this.chat(chatId);
    const messageId = uuidOf(senderId, chatId, tempId, content);
    if (chat.durable.has(messageId)) return;
    const { listing } = this.list(chat, { messageId, chatId, senderId, content, tempId });
    this.show(chat, listing);
    listing.tombstone = true;
    this.retracted.add(messageId);
    for (const connection of this.connections) connection.deliver("messageFailed", { messageId, tempId, chatId });
  }

  private list(chat: ServerChat, body: Omit<Message, "timestamp">): { message: Message; listing: Listing } {
    this.stamp = Math.max(this.stamp + 1, this.clock.now);
    const message = { ...body, timestamp: this.stamp };
    const listing = { seq: ++chat.seq, message };
    chat.stream.push(listing);
    return { message, listing };
  }

  private show(chat: ServerChat, { seq, message }: Listing): void {
    const payload = { ...message, epoch: chat.epoch, seq };
    for (const connection of this.connections) {
      const fault = this.liveFaults.shift() ?? "ok";
      if (fault === "lost") continue;
      if (fault === "lost and resync") {
        this.clock.setTimeout(() => connection.deliver("resync", {}), 2_000);
      } else if (fault === "late") {
        connection.deliver("newMessage", payload, 400);
      } else if (fault === "without position") {
        const { messageId, chatId } = message;
        connection.deliver("newMessage", { ...payload, epoch: null, seq: null });
        connection.deliver("messagePositioned", { chatId, messageId, epoch: chat.epoch, seq }, 300);
      } else {
        connection.deliver("newMessage", payload);
        if (fault === "twice") connection.deliver("newMessage", payload, 50);
      }
    }
  }

  private send(socket: FakeSocket, payload: any, reply: (answer: object, after?: number) => void): void {
    const { tempId, chatId, content } = payload;
    const fault = this.sendFaults.shift() ?? "ok";
    if (fault === "lost request") return;
    this.arrived.push({ tempId, chatId, content, at: this.clock.now, tab: socket.tab });
    this.onSend(socket.tab);
    if (content.startsWith("bad")) {
      reply(refusal("VALIDATION", false));
      return;
    }
    if (fault === "unavailable") {
      reply(refusal("UNAVAILABLE", true));
      return;
    }
    if (fault === "limited") {
      reply(refusal("RATE_LIMITED", true, 1_500));
      return;
    }
    if (fault === "unauthenticated") {
      reply(refusal("UNAUTHENTICATED", false));
      return;
    }
    if (fault === "shown and failed") {
      this.fail(chatId, socket.user, content, tempId);
      return reply(refusal("UNAVAILABLE", true));
    }
    const { message, duplicate } = this.accept(chatId, socket.user, content, tempId);
    const answer = { ok: true, message, durability: "kafka", ...(duplicate && { duplicate }) };
    if (fault === "lost answer") return;
    if (fault === "killed before answer") {
      socket.lose("transport close");
      return;
    }
    reply(answer, fault === "late answer" ? 7_000 : 0);
    if (fault === "answered twice") reply(answer, 20);
  }

  private page({ chatId, limit = 20, before }: any, reply: (answer: object) => void): void {
    const fault = this.historyFaults.shift() ?? "ok";
    if (fault === "lost") return;
    if (fault === "unavailable") {
      reply(refusal("UNAVAILABLE", true));
      return;
    }
    const chat = this.chat(chatId);
    const { epoch, seq, history } = chat;
    const end = before === undefined ? history.length : history.findIndex(({ messageId }) => messageId === before);
    const messages = history.slice(Math.max(0, end - limit), end).reverse();
    const nextCursor = end - limit > 0 ? messages[messages.length - 1]?.messageId : undefined;
    if (fault === "incomplete")
      return reply({ ok: true, messages: messages.slice(0, 1), source: "cache", complete: false, epoch, seq });
    reply({ ok: true, messages, source: "merged", complete: true, epoch, seq, ...(nextCursor && { nextCursor }) });
  }
}

function refusal(code: string, retryable: boolean, retryAfterMs?: number): object {
  return { ok: false, error: { code, message: code, retryable, ...(retryAfterMs && { retryAfterMs }) } };
}

/** A socket as socket.io-client's, which sends what it has buffered after the reconnect: here that is a failure. */
export class FakeSocket implements SocketLike {
  connected = false;
  auth: any;
  sendBuffer: unknown[] = [];
  user = "";
  private generation = 0;
  private readonly listeners = new Map<string, ((...args: any[]) => void)[]>();
  private readonly any: ((event: string, ...args: any[]) => void)[] = [];

  constructor(
    readonly server: Server,
    readonly tab: Tab,
  ) {}

  connect(): void {
    const generation = ++this.generation;
    this.later(generation, () => {
      const { token, offsets } = this.auth;
      if (!this.server.network) {
        this.fire("connect_error", new Error("xhr poll error"));
        return;
      }
      if (!this.server.tokens(token)) {
        this.fire("connect_error", new Error("UNAUTHENTICATED"));
        return;
      }
      this.user = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString()).sub;
      this.connected = true;
      this.server.connections.add(this);
      if (offsets) this.deliver("resumed", this.server.missed(offsets));
      this.fire("connect");
    });
  }

  disconnect(): void {
    this.generation++;
    this.server.connections.delete(this);
    if (!this.connected) return;
    this.connected = false;
    this.fire("disconnect", "io client disconnect");
  }

  /** The network or the server ends it. */
  lose(reason: string): void {
    this.generation++;
    this.server.connections.delete(this);
    if (!this.connected) return;
    this.connected = false;
    this.tab.run(() => this.fire("disconnect", reason));
  }

  emit(event: string, payload: any, answer: (answer: unknown) => void): void {
    if (!this.connected) throw new Error(`socket.io would buffer ${event}`);
    const { generation } = this;
    const copy = structuredClone(payload);
    this.later(generation, () => {
      if (!this.server.network) return;
      this.server.handle(this, event, copy, (given, after = 0) =>
        this.later(generation, () => this.server.network && answer(structuredClone(given)), LATENCY_MS + after),
      );
    });
  }

  deliver(event: string, payload: unknown, after = 0): void {
    const copy = structuredClone(payload);
    this.later(
      this.generation,
      () => {
        if (!this.server.network || !this.connected) return;
        for (const listener of this.any) listener(event, copy);
      },
      LATENCY_MS + after,
    );
  }

  on(event: string, listener: (...args: any[]) => void): void {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  onAny(listener: (event: string, ...args: any[]) => void): void {
    this.any.push(listener);
  }

  private fire(event: string, ...args: unknown[]): void {
    for (const listener of this.listeners.get(event) ?? []) listener(...args);
  }

  private later(generation: number, run: () => void, ms = LATENCY_MS): void {
    this.server.clock.setTimeout(() => this.tab.run(() => generation === this.generation && run()), ms);
  }
}

/** What a browser keeps for all its tabs, and beyond them. */
export class Browser {
  readonly disk = new Map<number, OutboxEntry>();
  lastKey = 0;
  readonly tabs: Tab[] = [];
  private readonly locks = new Map<string, { tab: Tab; granted: () => void; lost: () => void }[]>();
  private readonly channels = new Map<string, { tab: Tab; listener: (message: unknown) => void }[]>();
  /** With it, the outbox is in IndexedDB; else on a disk of which a killed tab's last writes may be missing. */
  indexedDB: IDBFactory | undefined;

  constructor(
    readonly server: Server,
    readonly random: () => number,
    readonly user = "alice",
  ) {}

  get clock(): Clock {
    return this.server.clock;
  }

  open(more: Partial<ConnectOptions> = {}): Tab {
    const tab = new Tab(this, more);
    this.tabs.push(tab);
    return tab;
  }

  holder(): Tab | undefined {
    return [...this.locks.values()][0]?.[0]?.tab;
  }

  lock(tab: Tab, name: string, granted: () => void, lost: () => void, steal: boolean): () => void {
    const queue = this.locks.get(name) ?? [];
    this.locks.set(name, queue);
    const entry = { tab, granted: () => tab.run(granted) };
    if (steal) {
      const [robbed] = queue.splice(0, 1, { ...entry, lost });
      robbed?.tab.run(robbed.lost);
      entry.granted();
      return () => this.unlock(tab);
    }
    queue.push({ ...entry, lost });
    if (queue.length === 1) entry.granted();
    return () => this.unlock(tab);
  }

  unlock(tab: Tab): void {
    for (const queue of this.locks.values()) {
      const first = queue[0];
      for (let at = queue.length - 1; at >= 0; at--) if (queue[at]!.tab === tab) queue.splice(at, 1);
      if (queue[0] && queue[0] !== first) queue[0].granted();
    }
  }

  channel(tab: Tab, name: string, listener: (message: unknown) => void): Channel {
    const members = this.channels.get(name) ?? [];
    this.channels.set(name, members);
    const member = { tab, listener };
    members.push(member);
    return {
      post: (message) => {
        const copy = structuredClone(message);
        for (const other of members) {
          if (other === member) continue;
          this.clock.setTimeout(() => members.includes(other) && other.tab.run(() => other.listener(copy)), 1);
        }
      },
      close: () => void members.splice(members.indexOf(member), 1),
    };
  }

  store(tab: Tab): OutboxStore {
    // Each operation takes a moment; that of a tab which is killed before is lost.
    const write = <T>(work: () => T): Promise<T> =>
      new Promise((resolve) =>
        this.clock.setTimeout(() => {
          if (tab.dead) return;
          const result = work();
          tab.run(() => resolve(result));
        }, 1),
      );
    return {
      add: (entry) =>
        write(() => {
          const key = ++this.lastKey;
          this.disk.set(key, structuredClone({ ...entry, key }));
          return key;
        }),
      put: (entry) => write(() => void this.disk.set(entry.key, structuredClone(entry))),
      remove: (key) => write(() => void this.disk.delete(key)),
      all: () => write(() => structuredClone([...this.disk.values()].sort((one, other) => one.key - other.key))),
      close: () => {},
    };
  }
}

/** A page with a client in it. */
export class Tab {
  dead = false;
  /** A page that is suspended: it keeps its lock, and nothing in it happens until it is woken. */
  frozen = false;
  wasFrozen = false;
  private readonly later: (() => void)[] = [];
  readonly client: Client;
  readonly refreshed: boolean[] = [];
  readonly events: { name: string; payload: any }[] = [];
  socket!: FakeSocket;
  networkChanged = () => {};
  token: () => string | Promise<string>;
  private uuids = 0;
  private static opened = 0;

  constructor(
    readonly browser: Browser,
    more: Partial<ConnectOptions>,
  ) {
    const { clock } = browser;
    const number = Tab.opened++;
    this.token = () => tokenOf(browser.user);
    const environment: Partial<Environment> = {
      now: () => clock.now,
      setTimeout: (run, ms) => clock.setTimeout(() => this.run(run), ms),
      clearTimeout: (timer) => clock.clearTimeout(timer),
      random: browser.random,
      uuid: () => `temp-${number}-${++this.uuids}`,
      socket: () => {
        this.socket = new FakeSocket(browser.server, this);
        return this.socket;
      },
      onNetwork: (changed) => {
        this.networkChanged = changed;
        return () => {};
      },
      // What a killed page's promises still do, nobody notices.
      lock: (...given) => (this.dead ? () => {} : browser.lock(this, ...given)),
      channel: (name, listener) => browser.channel(this, name, listener),
    };
    const store = browser.indexedDB ? counted(clock, indexedDbStore(browser.indexedDB, "test")) : browser.store(this);
    this.client = connect({
      url: "http://gateway",
      getToken: ({ refresh }) => {
        this.refreshed.push(refresh);
        return this.token();
      },
      store,
      ...more,
      environment: { ...environment, ...more.environment },
    });
    for (const name of ["newMessage", "messageFailed", "status", "synced", "error"] as const) {
      this.client.on(name, (payload) => this.events.push({ name, payload }));
    }
  }

  /** What happens to a page happens if it is there, and when it is awake. */
  run(what: () => void): void {
    if (this.dead) return;
    if (this.frozen) this.later.push(what);
    else what();
  }

  freeze(): void {
    this.frozen = true;
    this.wasFrozen = true;
  }

  thaw(): void {
    this.frozen = false;
    // One after the other, as events are.
    for (const what of this.later.splice(0)) this.browser.clock.setTimeout(() => this.run(what), 0);
  }

  told(name: string): any[] {
    return this.events.filter((event) => event.name === name).map((event) => event.payload);
  }

  /** The page ends without a word. */
  kill(): void {
    this.dead = true;
    this.socket.lose("");
    this.gone();
  }

  close(): void {
    this.client.close();
    this.gone();
  }

  private gone(): void {
    const { tabs } = this.browser;
    tabs.splice(tabs.indexOf(this), 1);
    this.browser.unlock(this);
  }
}

/** Tells the clock when the store works. */
function counted(clock: Clock, store: OutboxStore): OutboxStore {
  const during = async <T>(work: Promise<T>): Promise<T> => {
    clock.busy++;
    try {
      return await work;
    } finally {
      clock.busy--;
    }
  };
  return {
    add: (entry) => during(store.add(entry)),
    put: (entry) => during(store.put(entry)),
    remove: (key) => during(store.remove(key)),
    all: () => during(store.all()),
    close: () => store.close(),
  };
}

/** A gateway and a browser of alice's. */
export function world(seed = 1): { clock: Clock; server: Server; browser: Browser } {
  const clock = new Clock();
  const server = new Server(clock);
  return { clock, server, browser: new Browser(server, chance(seed)) };
}
