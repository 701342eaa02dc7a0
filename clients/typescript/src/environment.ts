import { io } from "socket.io-client";

/** As much of a Socket.IO socket as is used. */
export interface SocketLike {
  readonly connected: boolean;
  auth: unknown;
  /** What socket.io would send later by itself. It is kept empty. */
  sendBuffer: unknown[];
  connect(): unknown;
  disconnect(): unknown;
  emit(event: string, payload: unknown, answer: (answer: unknown) => void): unknown;
  // biome-ignore lint/suspicious/noExplicitAny: as socket.io-client has it
  on(event: string, listener: (...args: any[]) => void): unknown;
  // biome-ignore lint/suspicious/noExplicitAny: as socket.io-client has it
  onAny(listener: (event: string, ...args: any[]) => void): unknown;
}

/** What the tabs of one user tell each other through. */
export interface Channel {
  post(message: unknown): void;
  close(): void;
}

/** Everything from outside: time, chance, network, other tabs. Tests bring their own. */
export interface Environment {
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** Between 0 and 1. */
  random(): number;
  uuid(): string;
  socket(url: string, options: Record<string, unknown>): SocketLike;
  /** Calls when the network may have changed, or the page is looked at again. Returns how to stop that. */
  onNetwork(changed: () => void): () => void;
  /**
   * Calls `granted` once this tab has the lock, which it keeps until what is returned is called, or until another tab takes it away
   * (`steal`): then it calls `lost`. Absent: there are no locks.
   */
  lock?(name: string, granted: () => void, lost: () => void, steal: boolean): () => void;
  /** Absent: there are no other tabs to talk to. */
  channel?(name: string, listener: (message: unknown) => void): Channel;
  /** Absent: the outbox is in memory. */
  indexedDB?: IDBFactory;
}

function uuid(): string {
  // Pages that are not served over https have no randomUUID.
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function onNetwork(changed: () => void): () => void {
  const { connection } = (globalThis.navigator as undefined | { connection?: EventTarget }) ?? {};
  const page: EventTarget = globalThis.window ?? globalThis;
  const targets: [EventTarget | undefined, string][] = [
    [page, "online"],
    [page, "offline"],
    [page, "pageshow"],
    [connection, "change"],
    [globalThis.document, "visibilitychange"],
  ];
  const listener = () => {
    if (globalThis.document?.visibilityState !== "hidden") changed();
  };
  for (const [target, event] of targets) target?.addEventListener?.(event, listener);
  return () => {
    for (const [target, event] of targets) target?.removeEventListener?.(event, listener);
  };
}

function lock(name: string, granted: () => void, lost: () => void, steal: boolean): () => void {
  const abort = new AbortController();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const hold = () => {
    granted();
    return held;
  };
  // It fails if the lock is taken away, or no longer waited for.
  const options = steal ? { steal } : { signal: abort.signal };
  globalThis.navigator.locks.request(name, options, hold).catch(lost);
  return () => {
    release();
    abort.abort();
  };
}

function channel(name: string, listener: (message: unknown) => void): Channel {
  const channel = new BroadcastChannel(name);
  channel.onmessage = (event) => listener(event.data);
  return { post: (message) => channel.postMessage(message), close: () => channel.close() };
}

/** The environment of a browser, or of Node.js, where there are no other tabs. */
export function environment(): Environment {
  const browser = globalThis.window !== undefined || "WorkerGlobalScope" in globalThis;
  return {
    now: () => Date.now(),
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (timer) => clearTimeout(timer as number),
    random: () => Math.random(),
    uuid,
    socket: (url, options) => io(url, options) as unknown as SocketLike,
    onNetwork,
    ...(browser && globalThis.navigator?.locks && { lock }),
    ...(browser && globalThis.BroadcastChannel && { channel }),
    ...(globalThis.indexedDB && { indexedDB: globalThis.indexedDB }),
  };
}

/** How long to wait before the next attempt: twice as long each time, never all clients at once. */
export function backoff(environment: Environment, attempt: number, first: number, most: number): number {
  return Math.min(most, first * 2 ** Math.min(attempt, 20)) * (0.5 + environment.random() / 2);
}
