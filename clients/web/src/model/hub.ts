import { type Client, connect, HoldfastError, type Message, type Status } from "@holdfast/client";
import { Api, type Group, type Profile } from "./api";
import { direct, friendOf, isGroup, type Row, withChat, withMessage, withPage, withRow } from "./conversations";
import { cut, isCut, socket } from "./line";
import { developmentToken, type Session, saveSession } from "./session";
import { Store } from "./store";

/** How long somebody types without saying so again. */
const TYPING_MS = 5_000;
const PAGE = 50;
const PROFILES_AT_ONCE = 4;
const KEPT_ROWS = 200;

export interface State {
  status: Status;
  /** Whether there has been a connection since the page was opened. */
  connected: boolean;
  cut: boolean;
  /** The token is refused, and there is none but the user's to give. */
  expired: boolean;
  rows: readonly Row[];
  /** The list was read since the page was opened, and to its end. */
  listed: boolean;
  whole: boolean;
  total: number;
  /** By user; null: has none. */
  profiles: Readonly<Record<string, Profile | null>>;
  online: Readonly<Record<string, boolean>>;
  lastSeen: Readonly<Record<string, number>>;
  /** By chat: who types. */
  typing: Readonly<Record<string, readonly string[]>>;
  groups: Readonly<Record<string, Group>>;
  /** Something that went wrong, to be shown for a while. */
  notice: string;
  /** What a screen reader is to say. */
  said: string;
}

/** Everything that a signed-in user has: the client, and what the views show beside messages. */
export class Hub {
  readonly client: Client;
  readonly api: Api;
  readonly userId: string;
  readonly store: Store<State>;
  /** The chat that is looked at. */
  open: string | undefined;
  /** Chats whose newest page was read: each further page is an older one. */
  readonly begun = new Set<string>();
  private cursor: string | undefined;
  private listing: Promise<void> | undefined;
  private readonly typingUntil = new Map<string, ReturnType<typeof setTimeout>>();
  private readonly wanted: string[] = [];
  private readonly asked = new Set<string>();
  private asking = 0;
  private closed = false;
  private keeping: ReturnType<typeof setTimeout> | undefined;
  private readonly reading = new Set<string>();

  constructor(
    private session: Session,
    private readonly environment: { notify(message: Message, hub: Hub): void },
  ) {
    this.userId = session.userId;
    this.store = new Store<State>({
      status: "connecting",
      connected: false,
      cut: isCut(),
      expired: false,
      listed: false,
      whole: false,
      total: 0,
      online: {},
      lastSeen: {},
      typing: {},
      groups: {},
      notice: "",
      said: "",
      ...this.kept(),
    });
    this.api = new Api((refresh) => this.token(refresh));
    this.client = connect({
      url: location.origin,
      userId: this.userId,
      getToken: ({ refresh }) => this.token(refresh),
      environment: { socket },
    });
    const { client } = this;
    client.on("status", (status) => {
      this.store.set({ status, ...(status === "online" && { connected: true, expired: false }) });
      if (status !== "online") this.store.set({ typing: {} });
    });
    // What is never repeated is read anew.
    client.on("synced", () => void this.list());
    client.on("newMessage", (message) => this.came(message));
    client.on("messageFailed", () => void this.list());
    client.on("unreadCount", ({ chatId, count, total }) => {
      this.store.set({ rows: withRow(this.state.rows, chatId, { unread: count }), total });
    });
    client.on("chatUpdated", ({ chatId }) => void this.groupChanged(chatId));
    client.on("typing", ({ chatId, userId, typing }) => this.types(chatId, userId, typing));
    client.on("presence", ({ userId, online, lastSeen }) => {
      this.store.set({ online: { ...this.state.online, [userId]: online } });
      if (typeof lastSeen === "number") this.store.set({ lastSeen: { ...this.state.lastSeen, [userId]: lastSeen } });
    });
    client.on("error", (error) => {
      if (!(error instanceof Expired)) this.notice(error.message);
    });
    this.store.subscribe(() => this.keep());
  }

  get state(): State {
    return this.store.state;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.keeping);
    for (const timer of this.typingUntil.values()) clearTimeout(timer);
    this.client.close();
  }

  /** Forgets what this browser keeps of the user, but for what is not sent yet. */
  forget(): void {
    this.close();
    localStorage.removeItem(this.keptAs);
    for (const key of Object.keys(sessionStorage))
      if (key.startsWith(draftsOf(this.userId))) sessionStorage.removeItem(key);
  }

  cut(on: boolean): void {
    this.store.set({ cut: on });
    cut(on);
  }

  notice(text: string): void {
    this.store.set({ notice: text });
  }

  /** Runs what a button asks for, and says why if it can't be done. */
  async attempt(run: () => Promise<unknown>): Promise<boolean> {
    try {
      await run();
      return true;
    } catch (error) {
      this.notice(said(error));
      return false;
    }
  }

  /** A chat that was opened, with whom it is. */
  opened(chatId: string): void {
    const friend = friendOf(chatId, this.userId);
    if (friend !== undefined) {
      this.store.set({ rows: withChat(this.state.rows, chatId, [this.userId, friend], Date.now()) });
      void this.presence([friend]);
    } else if (!this.state.groups[chatId]) {
      void this.group(chatId);
    }
  }

  /** The newest page of the list, and how much is unread; the following pages by `more`. */
  list(): Promise<void> {
    this.listing ??= this.readList().finally(() => {
      this.listing = undefined;
    });
    return this.listing;
  }

  async more(): Promise<void> {
    if (this.listing || this.state.whole || this.cursor === undefined) return;
    this.listing = this.readPage(this.cursor)
      .catch(() => {})
      .finally(() => {
        this.listing = undefined;
      });
    return this.listing;
  }

  /** A user's or a group's name, as far as it is known. */
  name(id: string): string {
    return this.state.profiles[id]?.displayName ?? id;
  }

  title(chatId: string): string {
    const friend = friendOf(chatId, this.userId);
    return friend !== undefined ? this.name(friend) : (this.state.groups[chatId]?.name ?? "Group");
  }

  /** Sees to it that a profile is there. */
  wantProfile(userId: string): void {
    if (this.asked.has(userId)) return;
    this.asked.add(userId);
    this.wanted.push(userId);
    this.askProfiles();
  }

  wantGroup(chatId: string): void {
    if (this.asked.has(chatId)) return;
    this.asked.add(chatId);
    void this.group(chatId);
  }

  gotProfile(userId: string, profile: Profile | null): void {
    this.store.set({ profiles: { ...this.state.profiles, [userId]: profile } });
  }

  gotGroup(group: Group): void {
    this.store.set({ groups: { ...this.state.groups, [group.chatId]: group } });
    const members = group.members.map(({ userId }) => userId);
    this.store.set({
      rows: withRow(withChat(this.state.rows, group.chatId, members, Date.now()), group.chatId, { members }),
    });
  }

  gone(chatId: string): void {
    const { [chatId]: _, ...groups } = this.state.groups;
    this.store.set({ groups, rows: this.state.rows.filter((row) => row.chatId !== chatId) });
  }

  async presence(userIds: string[]): Promise<void> {
    const { online, lastSeen } = await this.client
      .request("presence", { userIds: userIds.slice(0, 100) })
      .catch(() => ({ online: {}, lastSeen: {} }));
    this.store.set({
      online: { ...this.state.online, ...online },
      lastSeen: { ...this.state.lastSeen, ...lastSeen },
    });
  }

  /** Says that everything in a chat that is here is read. */
  async read(chatId: string): Promise<void> {
    if (this.reading.has(chatId) || this.state.status !== "online") return;
    this.reading.add(chatId);
    try {
      const unread = await this.client.chat(chatId).markRead();
      const before = this.state.rows.find((row) => row.chatId === chatId)?.unread ?? 0;
      const total = Math.max(0, this.state.total - before + unread);
      this.store.set({ rows: withRow(this.state.rows, chatId, { unread }), total });
    } catch {
      // It is said again with the next message, or the next time that somebody looks.
    } finally {
      this.reading.delete(chatId);
    }
  }

  async createGroup(name: string, members: string[], key: string): Promise<string> {
    const group = await this.api.call("post", "/api/chats", { body: { name, members }, key });
    this.gotGroup(group);
    return group.chatId;
  }

  direct(friendId: string): string {
    return direct(this.userId, friendId);
  }

  private async token(refresh: boolean): Promise<string> {
    if (!refresh) return this.session.token;
    if (this.session.by === "token") {
      this.store.set({ expired: true });
      throw new Expired("the token is not accepted any more");
    }
    const token = await developmentToken(this.userId);
    this.session = { ...this.session, token };
    saveSession(this.session);
    return token;
  }

  private came(message: Message): void {
    const { chatId, senderId, content } = message;
    const rows = withMessage(this.state.rows, message);
    if (rows) this.store.set({ rows });
    else void this.list();
    this.types(chatId, senderId, false);
    if (senderId === this.userId) return;
    if (chatId === this.open) this.store.set({ said: `${this.name(senderId)}: ${content || "an image"}` });
    this.environment.notify(message, this);
  }

  private types(chatId: string, userId: string, typing: boolean): void {
    if (userId === this.userId) return;
    const key = `${chatId} ${userId}`;
    clearTimeout(this.typingUntil.get(key));
    this.typingUntil.delete(key);
    const now = this.state.typing[chatId] ?? [];
    if (typing)
      this.typingUntil.set(
        key,
        setTimeout(() => this.types(chatId, userId, false), TYPING_MS),
      );
    if (typing !== now.includes(userId)) {
      const others = now.filter((other) => other !== userId);
      this.store.set({ typing: { ...this.state.typing, [chatId]: typing ? [...others, userId] : others } });
    }
  }

  private async groupChanged(chatId: string): Promise<void> {
    await this.group(chatId);
    if (this.state.groups[chatId]) await this.list();
  }

  private async group(chatId: string): Promise<void> {
    if (!isGroup(chatId)) return;
    try {
      this.gotGroup(await this.api.call("get", "/api/chats/{chatId}", { path: { chatId } }));
    } catch (error) {
      if (error instanceof HoldfastError && error.code === "NOT_FOUND") this.gone(chatId);
      else this.asked.delete(chatId);
    }
  }

  private async readList(): Promise<void> {
    try {
      await this.readPage(undefined);
      const { counts, total } = await this.client.request("unread", {});
      const rows = this.state.rows.map((row) => {
        const unread = counts[row.chatId] ?? 0;
        return unread === row.unread ? row : { ...row, unread };
      });
      this.store.set({ rows, total });
      if (this.open) this.opened(this.open);
    } catch {
      // The next connection brings the next attempt.
    }
  }

  private async readPage(before: string | undefined): Promise<void> {
    const page = await this.client.request("conversations", { limit: PAGE, ...(before !== undefined && { before }) });
    const online = { ...this.state.online };
    for (const conversation of page.conversations) {
      if (!conversation.online) continue;
      for (const member of conversation.members) online[member] = conversation.online.includes(member);
    }
    // The first page is read again and again; how far the others were read stays as it is.
    if (before !== undefined || !this.state.listed) this.cursor = page.nextCursor;
    this.store.set({
      rows: withPage(this.state.rows, page.conversations, Date.now()),
      online,
      listed: true,
      whole: this.cursor === undefined,
    });
  }

  private askProfiles(): void {
    while (this.asking < PROFILES_AT_ONCE) {
      const userId = this.wanted.shift();
      if (userId === undefined) return;
      this.asking++;
      this.api
        .call("get", "/api/users/{userId}/profile", { path: { userId } })
        .then(
          (profile) => this.gotProfile(userId, profile),
          (error: unknown) => {
            if (error instanceof HoldfastError && error.code === "NOT_FOUND") this.gotProfile(userId, null);
            // Asked for again by whoever shows it next.
            else this.asked.delete(userId);
          },
        )
        .finally(() => {
          this.asking--;
          this.askProfiles();
        });
    }
  }

  private get keptAs(): string {
    return `holdfast list ${this.userId}`;
  }

  /** The list and the names, as they were when the page was used last: what there is to be seen without a network. */
  private kept(): Pick<State, "rows" | "profiles"> {
    try {
      const { rows, profiles } = JSON.parse(localStorage.getItem(this.keptAs) ?? "") as Pick<
        State,
        "rows" | "profiles"
      >;
      if (Array.isArray(rows) && typeof profiles === "object") return { rows, profiles };
    } catch {}
    return { rows: [], profiles: {} };
  }

  private keep(): void {
    // What is answered after the end is not kept.
    if (this.closed) return;
    this.keeping ??= setTimeout(() => {
      this.keeping = undefined;
      const { rows, profiles } = this.state;
      try {
        localStorage.setItem(this.keptAs, JSON.stringify({ rows: rows.slice(0, KEPT_ROWS), profiles }));
      } catch {
        // There is no room: then the list is empty after a start without a network.
      }
    }, 500);
  }
}

class Expired extends Error {}

/** What the names of a user's drafts in this tab's storage begin with. */
export const draftsOf = (userId: string): string => `holdfast draft ${userId} `;

/** Why something could not be done, for people. */
export function said(error: unknown): string {
  if (!(error instanceof HoldfastError)) return error instanceof Error ? error.message : String(error);
  const known: Partial<Record<HoldfastError["code"], string>> = {
    FORBIDDEN: "You may not do that",
    NOT_FOUND: "There is no such thing",
    RATE_LIMITED: "Too much at once: wait a moment",
    UNAVAILABLE: "That can’t be done now: try again later",
    TIMEOUT: "There was no answer: try again",
    UNAUTHENTICATED: "Sign in again",
    STORAGE: "This browser can’t keep the message",
  };
  return known[error.code] ?? error.message;
}
