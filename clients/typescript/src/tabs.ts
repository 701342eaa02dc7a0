import type { Channel, Environment } from "./environment.js";
import type { OutboxStore } from "./types.js";

const LEASE_MS = 10_000;

/** The tabs of one user: which of them sends, and what they tell each other. */
export class Tabs<Told> {
  private readonly channel: Channel | undefined;
  private release = () => {};
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
    if (!shared) lead(true);
    else if (this.environment.lock) this.release = this.environment.lock(this.name, () => this.closed || lead(true));
    else if (store.lease) void this.claim(store.lease.bind(store), this.environment.uuid(), false, lead);
    else lead(true);
  }

  close(): void {
    this.closed = true;
    this.environment.clearTimeout(this.timer);
    this.release();
    this.channel?.close();
  }

  // Pages that are not served over https have no Web Locks. Should two tabs send at a time, it is still one message.
  private async claim(
    lease: NonNullable<OutboxStore["lease"]>,
    owner: string,
    before: boolean,
    lead: (sender: boolean) => void,
  ): Promise<void> {
    const now = this.environment.now();
    const leads = await lease(owner, now, now + LEASE_MS).catch(() => false);
    const end = () => void lease(owner, now, now).catch(() => {});
    if (this.closed) return leads ? end() : undefined;
    this.release = leads ? end : () => {};
    if (leads !== before) lead(leads);
    this.timer = this.environment.setTimeout(() => void this.claim(lease, owner, leads, lead), LEASE_MS / 3);
  }
}
