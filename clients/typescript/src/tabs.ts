import type { Channel, Environment } from "./environment.js";
import type { OutboxStore } from "./types.js";

const LEASE_MS = 10_000;

/** The tabs of one user: which of them sends, and what they tell each other. */
export class Tabs<Told> {
  private readonly channel: Channel | undefined;
  private release = () => {};
  private lead: (sender: boolean) => void = () => {};
  private timer: unknown;
  private closed = false;

  constructor(
    private readonly environment: Environment,
    private readonly name: string,
    told: (message: Told) => void,
  ) {
    this.channel = environment.channel?.(name, (message) => {
      if (!this.closed) told(message as Told);
    });
  }

  tell(message: Told): void {
    if (!this.closed) this.channel?.post(message);
  }

  /** Calls `lead(true)` once this tab is the one that sends. Without a shared store every tab sends what is its own. */
  elect(store: OutboxStore, shared: boolean, lead: (sender: boolean) => void): void {
    if (this.closed) return;
    this.lead = lead;
    if (!shared) lead(true);
    else if (this.environment.lock) this.queue(false);
    else if (store.lease) void this.claim(store.lease.bind(store), this.environment.uuid(), false);
    else lead(true);
  }

  /** Becomes the one that sends, because the other does not answer: a suspended page keeps its lock. */
  takeOver(): void {
    if (this.closed || !this.environment.lock) return;
    this.release();
    this.queue(true);
  }

  close(): void {
    this.closed = true;
    this.environment.clearTimeout(this.timer);
    this.release();
    this.channel?.close();
  }

  private queue(steal: boolean): void {
    let over = false;
    const lost = () => {
      if (over || this.closed) return;
      this.lead(false);
      this.queue(false);
    };
    const release = this.environment.lock!(this.name, () => over || this.closed || this.lead(true), lost, steal);
    this.release = () => {
      over = true;
      release();
    };
  }

  // Pages that are not served over https have no Web Locks. Should two tabs send at a time, it is still one message.
  private async claim(lease: NonNullable<OutboxStore["lease"]>, owner: string, before: boolean): Promise<void> {
    const now = this.environment.now();
    const leads = await lease(owner, now, now + LEASE_MS).catch(() => false);
    const end = () => void lease(owner, now, now).catch(() => {});
    if (this.closed) return leads ? end() : undefined;
    this.release = leads ? end : () => {};
    if (leads !== before) this.lead(leads);
    this.timer = this.environment.setTimeout(() => void this.claim(lease, owner, leads), LEASE_MS / 3);
  }
}
