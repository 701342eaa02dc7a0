import { backoff, type Environment, type SocketLike } from "./environment.js";
import type { ClientEvents, Refusal } from "./generated/events.js";
import type { Status } from "./types.js";

export type Answer<T> = ({ ok: true } & T) | { ok: false; error: Refusal };
export type AnswerTo<Name extends keyof ClientEvents> = Answer<ClientEvents[Name]["answer"]>;

/** No answer came: whether the request was carried out is unknown. */
export class Unanswered extends Error {
  constructor(readonly reason: "timeout" | "disconnected") {
    super(reason);
  }
}

export interface ConnectionHooks {
  /** A token; a new one if the last was refused. */
  token(refresh: boolean): Promise<string>;
  /** What is said in the handshake. */
  auth(token: string): unknown;
  status(status: Status): void;
  event(name: string, payload: unknown): void;
  error(error: Error): void;
}

/** Longer than the gateway takes for any answer. */
export const ANSWER_MS = 6_000;
const CONNECT_MS = 15_000;
const PROBE_MS = 2_000;
/** A connection that lasted as long counts as a success. */
const STABLE_MS = 5_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 15_000;

/** One connection after the other. Nothing is ever left to socket.io to send later: what is not sent now is refused here. */
export class Connection {
  status: Status = "offline";
  private readonly socket: SocketLike;
  private readonly waiting = new Set<(reason: Unanswered["reason"]) => void>();
  private timer: unknown;
  private turn = 0;
  private attempts = 0;
  private connectedAt = 0;
  private refresh = false;
  private refused = 0;
  private immediate = false;
  private probing = false;
  private closed = false;

  constructor(
    private readonly environment: Environment,
    private readonly hooks: ConnectionHooks,
    url: string,
    options: Record<string, unknown>,
  ) {
    const own = { autoConnect: false, reconnection: false, forceNew: true, retries: 0 };
    this.socket = environment.socket(url, {
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      ...options,
      ...own,
    });
    this.socket.on("connect", () => this.up());
    this.socket.on("disconnect", () => this.down());
    this.socket.on("connect_error", (error: Error) => {
      if (this.status !== "connecting") return;
      if (error.message === "UNAUTHENTICATED") this.unauthenticated();
      this.down();
    });
    this.socket.onAny((name: string, payload: unknown) => {
      if (this.status === "online") hooks.event(name, payload);
    });
  }

  open(): void {
    void this.begin();
  }

  /** Connects now if it would have waited. */
  kick(): void {
    if (this.status === "offline" && !this.closed) void this.begin();
  }

  /** Whether it is still there? If there is no answer soon, it is replaced. */
  probe(): void {
    if (this.status !== "online") this.kick();
    if (this.status !== "online" || this.probing) return;
    this.probing = true;
    const turn = this.turn;
    const done = () => {
      this.probing = false;
    };
    this.request("resume", { offsets: {} }, PROBE_MS).then(done, (error: Unanswered) => {
      done();
      if (error.reason === "timeout" && turn === this.turn) this.drop(true);
    });
  }

  /** The answer, positive or not. What comes too late goes to `late`. */
  request<Name extends keyof ClientEvents>(
    event: Name,
    payload: ClientEvents[Name]["request"],
    timeout = ANSWER_MS,
    late?: (answer: AnswerTo<Name>) => void,
  ): Promise<AnswerTo<Name>> {
    return new Promise((resolve, reject) => {
      if (this.status !== "online") return reject(new Unanswered("disconnected"));
      let over = false;
      const end = () => {
        over = true;
        this.environment.clearTimeout(timer);
        this.waiting.delete(fail);
      };
      const fail = (reason: Unanswered["reason"]) => {
        if (over) return;
        end();
        reject(new Unanswered(reason));
      };
      const timer = this.environment.setTimeout(() => {
        fail("timeout");
        this.probe();
      }, timeout);
      this.waiting.add(fail);
      if (!this.socket.connected) return this.drop(true);
      this.socket.emit(event, payload, (given) => {
        const answer = wellFormed<ClientEvents[Name]["answer"]>(given);
        if (over) return late?.(answer);
        end();
        if (answer.ok) this.refused = 0;
        resolve(answer);
        if (!answer.ok && answer.error.code === "UNAUTHENTICATED") {
          this.unauthenticated();
          this.drop(this.immediate);
        }
      });
      // A connection that socket.io itself no longer trusts: it would send this again after the reconnect, whatever comes of it here.
      if (this.socket.sendBuffer.length > 0) this.drop(true);
    });
  }

  close(): void {
    this.closed = true;
    this.drop(false);
  }

  private async begin(): Promise<void> {
    this.environment.clearTimeout(this.timer);
    const turn = ++this.turn;
    this.timer = this.environment.setTimeout(() => this.drop(false), CONNECT_MS);
    this.become("connecting");
    try {
      const token = await this.hooks.token(this.refresh);
      if (turn !== this.turn || this.status !== "connecting") return;
      this.refresh = false;
      this.socket.auth = this.hooks.auth(token);
    } catch (error) {
      if (turn !== this.turn) return;
      this.hooks.error(error instanceof Error ? error : new Error(String(error)));
      return this.down();
    }
    this.socket.connect();
  }

  private up(): void {
    if (this.status !== "connecting") return;
    this.environment.clearTimeout(this.timer);
    this.connectedAt = this.environment.now();
    this.become("online");
  }

  private unauthenticated(): void {
    this.refresh = true;
    // The first new token is tried at once.
    this.immediate = this.refused++ === 0;
  }

  private drop(immediate: boolean): void {
    this.immediate = immediate;
    this.socket.disconnect();
    // It was not connected, so nothing has told.
    if (this.status !== "offline") this.down();
  }

  private down(): void {
    if (this.status === "offline") return;
    if (this.status === "connecting") this.socket.disconnect();
    else if (this.environment.now() - this.connectedAt >= STABLE_MS) this.attempts = 0;
    this.turn++;
    this.environment.clearTimeout(this.timer);
    this.socket.sendBuffer.length = 0;
    const wait = this.immediate ? 0 : backoff(this.environment, this.attempts++, BACKOFF_FIRST_MS, BACKOFF_MOST_MS);
    this.immediate = false;
    if (!this.closed) this.timer = this.environment.setTimeout(() => this.kick(), wait);
    const waiting = [...this.waiting];
    this.become("offline");
    for (const fail of waiting) fail("disconnected");
  }

  private become(status: Status): void {
    this.status = status;
    this.hooks.status(status);
  }
}

function wellFormed<T>(answer: unknown): Answer<T> {
  const { ok, error } = (answer ?? {}) as { ok?: unknown; error?: Refusal };
  if (ok === true || (ok === false && error)) return answer as Answer<T>;
  return { ok: false, error: { code: "INTERNAL", message: "an answer that is none", retryable: true } };
}
