import { IDBFactory } from "fake-indexeddb";
import { describe, expect, test } from "vitest";
import { indexedDbStore, memoryStore } from "../src/store.js";
import { Tabs } from "../src/tabs.js";
import { Clock, chance } from "./world.js";

const entry = (tempId: string) => ({ tempId, chatId: "alice:bob", content: "hello", createdAt: 1 });

describe.each([
  ["memory", () => memoryStore()],
  ["IndexedDB", () => indexedDbStore(new IDBFactory(), "test")],
])("the store in %s", (_, open) => {
  test("keeps what it is given, in order", async () => {
    const store = open();
    const keys = await Promise.all(["a", "b", "c"].map((tempId) => store.add(entry(tempId))));
    expect(keys).toEqual([...keys].sort((one, other) => one - other));
    const [a, b, c] = keys as [number, number, number];
    await store.remove(b);
    await store.put({ ...entry("c"), key: c, failed: { code: "VALIDATION", message: "no" } });
    expect(await store.all()).toEqual([
      { ...entry("a"), key: a },
      { ...entry("c"), key: c, failed: { code: "VALIDATION", message: "no" } },
    ]);
    expect(await store.add(entry("d"))).toBeGreaterThan(c);
    store.close();
  });
});

test("IndexedDB outlives whoever used it, and a connection to it that is lost is replaced", async () => {
  const factory = new IDBFactory();
  const first = indexedDbStore(factory, "test");
  await first.add(entry("a"));
  first.close();
  const opened: IDBDatabase[] = [];
  const open = factory.open.bind(factory);
  factory.open = (...given) => {
    const request = open(...given);
    request.addEventListener("success", () => opened.push(request.result));
    return request;
  };
  const second = indexedDbStore(factory, "test");
  expect(await second.all()).toHaveLength(1);
  opened[0]?.close();
  await second.add(entry("b"));
  expect((await second.all()).map(({ tempId }) => tempId)).toEqual(["a", "b"]);
  expect(opened).toHaveLength(2);
});

test("one tab holds the lease, and another gets it when that ends", async () => {
  const store = indexedDbStore(new IDBFactory(), "test");
  expect(await store.lease?.("one", 0, 10)).toBe(true);
  expect(await store.lease?.("two", 5, 15)).toBe(false);
  expect(await store.lease?.("one", 9, 19)).toBe(true);
  expect(await store.lease?.("two", 18, 28)).toBe(false);
  expect(await store.lease?.("two", 19, 29)).toBe(true);
  expect(await store.lease?.("one", 20, 30)).toBe(false);
});

test("without Web Locks the lease decides who sends", async () => {
  const clock = new Clock();
  const factory = new IDBFactory();
  const tabs = [1, 2].map((number) => {
    const leads: boolean[] = [];
    const store = indexedDbStore(factory, "test");
    const lease: typeof store.lease = async (...given) => {
      clock.busy++;
      return (await store.lease?.(...given).finally(() => clock.busy--)) ?? false;
    };
    const tab = new Tabs<never>(
      {
        now: () => clock.now,
        setTimeout: (run, ms) => clock.setTimeout(run, ms),
        clearTimeout: (timer) => clock.clearTimeout(timer),
        random: chance(number),
        uuid: () => `tab-${number}`,
        socket: () => expect.fail("no socket is needed"),
        onNetwork: () => () => {},
      },
      "test",
      () => {},
    );
    tab.elect({ ...store, lease }, true, (sender) => leads.push(sender));
    return { tab, leads };
  });
  await clock.advance(60_000);
  expect(tabs.map(({ leads }) => leads)).toEqual([[true], []]);
  // It says so when it ends.
  tabs[0]?.tab.close();
  await clock.advance(4_000);
  expect(tabs.map(({ leads }) => leads)).toEqual([[true], [true]]);
  tabs[1]?.tab.close();
});
