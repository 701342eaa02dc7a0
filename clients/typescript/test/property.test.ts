// Outbox and view against a gateway whose network loses, delays, repeats and reorders, and pages that come and go.

import { IDBFactory } from "fake-indexeddb";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  Browser,
  Clock,
  chance,
  type HistoryFault,
  type LiveFault,
  type ResumeFault,
  type SendFault,
  Server,
  type Tab,
} from "./world.js";

const CHATS = ["alice:bob", "g_1"];
const SEND_FAULTS: SendFault[] = [
  "ok",
  "lost request",
  "lost answer",
  "late answer",
  "answered twice",
  "unavailable",
  "limited",
  "shown and failed",
  "unauthenticated",
  "killed before answer",
];
const LIVE_FAULTS: LiveFault[] = ["ok", "lost", "lost and resync", "twice", "late", "without position"];

type Step =
  | { do: "send"; tab: number; chat: number; bad: boolean }
  | { do: "peer"; chat: number; fails: boolean }
  | { do: "history"; tab: number; chat: number; limit: number }
  | { do: "advance"; ms: number }
  | { do: "cut" | "resync" | "changed" | "open" }
  | { do: "epoch"; chat: number }
  | { do: "network"; there: boolean }
  | { do: "kill" | "close" | "reload" | "freeze" | "thaw"; tab: number }
  | { do: "sendFaults"; faults: SendFault[] }
  | { do: "liveFaults"; faults: LiveFault[] }
  | { do: "historyFaults"; faults: HistoryFault[] }
  | { do: "resumeFaults"; faults: ResumeFault[] };

const tab = fc.nat(3);
const chat = fc.nat(CHATS.length - 1);
const faults = <const T>(...kinds: T[]) => fc.array(fc.constantFrom(...kinds), { minLength: 1, maxLength: 6 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant("send" as const), tab, chat, bad: fc.nat(9).map((n) => n === 0) }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("peer" as const), chat, fails: fc.nat(5).map((n) => n === 0) }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant("history" as const), tab, chat, limit: fc.integer({ min: 1, max: 5 }) }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("advance" as const),
      ms: fc.oneof(fc.nat(12), fc.nat(1_000), fc.nat(20_000)),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom("cut" as const, "resync" as const, "changed" as const, "open" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("epoch" as const), chat }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("network" as const), there: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("kill" as const, "close" as const, "reload" as const, "freeze" as const, "thaw" as const),
      tab,
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("sendFaults" as const), faults: faults(...SEND_FAULTS) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("liveFaults" as const), faults: faults(...LIVE_FAULTS) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("historyFaults" as const),
      faults: faults("ok", "incomplete", "unavailable", "lost"),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("resumeFaults" as const),
      faults: faults("ok", "not recovered", "unavailable", "lost"),
    }),
  },
);

interface Sent {
  tempId: string;
  chatId: string;
  content: string;
  kept: boolean;
}

class Run {
  readonly clock = new Clock();
  readonly server = new Server(this.clock);
  readonly browser: Browser;
  readonly sends: Sent[] = [];
  readonly everyTab: Tab[] = [];
  private peers = 0;

  constructor(seed: number, indexedDB: boolean) {
    this.browser = new Browser(this.server, chance(seed));
    if (indexedDB) this.browser.indexedDB = new IDBFactory();
    this.server.onSend = (from) => {
      if (!from.dead && !from.wasFrozen)
        expect(this.browser.holder(), "only the tab that has the lock sends").toBe(from);
    };
    this.open();
  }

  open(): void {
    if (this.browser.tabs.length < 3) this.everyTab.push(this.browser.open());
  }

  tab(number: number): Tab {
    return this.browser.tabs[number % this.browser.tabs.length]!;
  }

  async take(step: Step): Promise<void> {
    const { server } = this;
    switch (step.do) {
      case "send": {
        // Nobody types on a page that is asleep.
        if (this.tab(step.tab).frozen) break;
        const chatId = CHATS[step.chat]!;
        const content = `${step.bad ? "bad" : "good"} ${this.sends.length}`;
        const { tempId, kept } = this.tab(step.tab).client.chat(chatId).send(content);
        const sent = { tempId, chatId, content, kept: false };
        this.sends.push(sent);
        kept
          .then(() => {
            sent.kept = true;
          })
          .catch(() => {});
        break;
      }
      case "peer": {
        const chatId = CHATS[step.chat]!;
        const number = ++this.peers;
        if (step.fails) server.fail(chatId, "bob", `failed ${number}`, `bob-${number}`);
        else server.accept(chatId, "bob", `hello ${number}`, `bob-${number}`);
        break;
      }
      case "history":
        this.tab(step.tab)
          .client.chat(CHATS[step.chat]!)
          .history({ limit: step.limit })
          .catch(() => {});
        break;
      case "advance":
        await this.clock.advance(step.ms);
        break;
      case "cut":
        server.cut();
        break;
      case "resync":
        server.resync();
        break;
      case "changed":
        for (const { networkChanged } of this.browser.tabs) networkChanged();
        break;
      case "epoch":
        server.newEpoch(CHATS[step.chat]!);
        break;
      case "network":
        server.network = step.there;
        break;
      case "open":
        this.open();
        break;
      case "kill":
        this.tab(step.tab).kill();
        if (this.browser.tabs.length === 0) this.open();
        break;
      case "close":
        this.tab(step.tab).close();
        if (this.browser.tabs.length === 0) this.open();
        break;
      case "reload":
        this.tab(step.tab).kill();
        this.open();
        break;
      case "freeze":
        this.tab(step.tab).freeze();
        break;
      case "thaw":
        this.tab(step.tab).thaw();
        break;
      case "sendFaults":
        server.sendFaults = [...step.faults];
        break;
      case "liveFaults":
        server.liveFaults = [...step.faults];
        break;
      case "historyFaults":
        server.historyFaults = [...step.faults];
        break;
      case "resumeFaults":
        server.resumeFaults = [...step.faults];
        break;
    }
    await this.clock.settle();
  }

  /** Everything works again, and there is time for everything. */
  async heal(): Promise<void> {
    Object.assign(this.server, { network: true, sendFaults: [], liveFaults: [], historyFaults: [], resumeFaults: [] });
    // What is asleep stays so: somebody else has to do it.
    if (this.browser.tabs.every((open) => open.frozen)) this.tab(0).thaw();
    await this.clock.advance(120_000);
    this.everythingIsDurable();
    for (const open of this.browser.tabs) open.thaw();
    await this.clock.advance(120_000);
    // What was lost last shows by the gap before what comes next.
    for (const chatId of CHATS) this.server.accept(chatId, "bob", "the end", `end-${chatId}`);
    await this.clock.advance(60_000);
  }

  private everythingIsDurable(): void {
    for (const { tempId, chatId, content, kept } of this.sends) {
      const copies = [...this.server.chat(chatId).durable.values()].filter((message) => message.tempId === tempId);
      const arrived = this.server.arrived.some((send) => send.tempId === tempId);
      if (content.startsWith("bad")) expect(copies).toHaveLength(0);
      else if (kept) expect(copies, "what was kept is durable once").toMatchObject([{ content }]);
      else if (arrived) expect(copies, "what is on disk is sent, whoever knew of it").toHaveLength(1);
    }
  }

  async judge(): Promise<void> {
    const { server } = this;
    const stored = this.browser.indexedDB ? undefined : [...this.browser.disk.values()];
    this.everythingIsDurable();
    for (const entry of stored ?? []) expect(entry.failed?.code, "only what failed for good stays").toBe("VALIDATION");
    for (const chatId of CHATS) {
      const mine = server.chat(chatId).history.filter((message) => message.senderId === "alice");
      if (!this.browser.indexedDB) this.inOrder(mine.map((message) => message.tempId!));
      for (const open of this.browser.tabs) this.view(open, chatId);
    }
    for (const open of this.everyTab) {
      const there = new Set<string>();
      for (const { name, payload } of open.events) {
        if (name === "error") throw payload;
        if (name === "newMessage") expect(there.has(payload.messageId), "each message is told once").toBe(false);
        if (name === "newMessage") there.add(payload.messageId);
        if (name === "messageFailed") expect(there.delete(payload.messageId) || true).toBe(true);
      }
    }
  }

  /** Each tab's sends of one chat, in their order. */
  private inOrder(tempIds: string[]): void {
    const byTab = new Map<string, number[]>();
    for (const tempId of tempIds) {
      const [, from, number] = tempId.split("-");
      byTab.set(from!, [...(byTab.get(from!) ?? []), Number(number)]);
    }
    for (const numbers of byTab.values()) expect(numbers).toEqual([...numbers].sort((one, other) => one - other));
  }

  private view(open: Tab, chatId: string): void {
    const { messages } = open.client.chat(chatId);
    for (const { status, content } of messages) {
      if (content.startsWith("bad")) expect(status).toBe("failed");
      else expect(["sent", "received"]).toContain(status);
    }
    const shown = messages.filter(({ messageId }) => messageId !== undefined);
    const truth = this.server.chat(chatId).history;
    const ids = new Set(truth.map(({ messageId }) => messageId));
    // A retraction that came while a page was away is not made up for: what never became durable may still be shown.
    const real = shown.filter(({ messageId }) => ids.has(messageId!));
    for (const { messageId } of shown) if (!ids.has(messageId!)) expect(this.server.retracted).toContain(messageId);
    const from = truth.findIndex(({ messageId }) => messageId === real[0]?.messageId);
    expect(real.map(({ timestamp, content }) => [timestamp, content])).toEqual(
      from < 0 ? [] : truth.slice(from).map(({ timestamp, content }) => [timestamp, content]),
    );
  }
}

async function holds(seed: number, steps: Step[], indexedDB: boolean): Promise<void> {
  const run = new Run(seed, indexedDB);
  try {
    for (const step of steps) await run.take(step);
    await run.heal();
    await run.judge();
  } finally {
    for (const open of [...run.browser.tabs]) open.close();
  }
}

const runs = Number(process.env.PROPERTY_RUNS ?? 200);
const parameters = { seed: Number(process.env.PROPERTY_SEED ?? 20_260_101), endOnFailure: false };

test("whatever the network and the pages do, what was kept is durable once and in order, and the view is the history", async () => {
  const property = fc.asyncProperty(fc.nat(), fc.array(step, { maxLength: 60, size: "max" }), (seed, steps) =>
    holds(seed, steps, false),
  );
  await fc.assert(property, { ...parameters, numRuns: runs });
}, 600_000);

test("the same with IndexedDB", async () => {
  const property = fc.asyncProperty(fc.nat(), fc.array(step, { maxLength: 40, size: "max" }), (seed, steps) =>
    holds(seed, steps, true),
  );
  await fc.assert(property, { ...parameters, numRuns: Math.ceil(runs / 6) });
}, 600_000);
