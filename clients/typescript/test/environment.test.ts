// The environment of a browser, on stand-ins for what a browser has and Node.js has not.
import { afterEach, expect, test, vi } from "vitest";
import { environment } from "../src/environment.js";
import { connect } from "../src/index.js";
import { tokenOf } from "./world.js";

afterEach(() => vi.unstubAllGlobals());

function browser() {
  const window = new EventTarget();
  const connection = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const requests: { name: string; steal: boolean | undefined; held: Promise<void> }[] = [];
  let grant = () => {};
  const locks = {
    request: (name: string, { signal, steal }: { signal?: AbortSignal; steal?: boolean }, hold: () => Promise<void>) =>
      new Promise<void>((resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason));
        grant = () => {
          const held = hold();
          requests.push({ name, steal, held });
          resolve(held);
        };
      }),
  };
  vi.stubGlobal("window", window);
  vi.stubGlobal("document", document);
  vi.stubGlobal("navigator", { locks, connection });
  return { window, connection, document, requests, grant: () => grant() };
}

test("the network is asked about when it changes, and when the page is looked at again", () => {
  const { window, connection, document } = browser();
  const changed = vi.fn();
  const stop = environment().onNetwork(changed);
  for (const [target, event] of [
    [window, "online"],
    [window, "offline"],
    [window, "pageshow"],
    [connection, "change"],
    [document, "visibilitychange"],
  ] as const) {
    target.dispatchEvent(new Event(event));
  }
  expect(changed).toHaveBeenCalledTimes(5);
  document.visibilityState = "hidden";
  document.dispatchEvent(new Event("visibilitychange"));
  stop();
  document.visibilityState = "visible";
  window.dispatchEvent(new Event("online"));
  expect(changed).toHaveBeenCalledTimes(5);
});

test("a lock is held until it is given back, and no longer waited for then", async () => {
  const { requests, grant } = browser();
  const [granted, lost] = [vi.fn(), vi.fn()];
  const release = environment().lock?.("outbox", granted, lost, false);
  expect(granted).not.toHaveBeenCalled();
  grant();
  expect(granted).toHaveBeenCalledOnce();
  expect(requests).toMatchObject([{ name: "outbox" }]);
  let over = false;
  requests[0]?.held.then(() => {
    over = true;
  });
  await Promise.resolve();
  expect(over).toBe(false);
  release?.();
  await requests[0]?.held;

  const neverGranted = vi.fn();
  environment().lock?.("outbox", neverGranted, lost, false)();
  expect(neverGranted).not.toHaveBeenCalled();
  await vi.waitFor(() => expect(lost).toHaveBeenCalledOnce());

  environment().lock?.("outbox", granted, lost, true);
  grant();
  expect(granted).toHaveBeenCalledTimes(2);
  expect(requests.at(-1)).toMatchObject({ name: "outbox", steal: true });
});

test("tabs hear each other, and not themselves", async () => {
  browser();
  const heard = vi.fn();
  const two = await new Promise<unknown>((resolve) => {
    const one = environment().channel?.("outbox", heard);
    const other = environment().channel?.("outbox", (message) => {
      one?.close();
      other?.close();
      resolve(message);
    });
    one?.post({ type: "adding" });
  });
  expect(two).toEqual({ type: "adding" });
  expect(heard).not.toHaveBeenCalled();
});

test("ids are UUIDs, over http too", () => {
  const form = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  expect(environment().uuid()).toMatch(form);
  vi.stubGlobal("crypto", { getRandomValues: crypto.getRandomValues.bind(crypto) });
  expect(environment().uuid()).toMatch(form);
  expect(environment().uuid()).not.toBe(environment().uuid());
});

test("without a browser there are neither locks nor other tabs, and the outbox is in memory", async () => {
  expect(environment()).not.toHaveProperty("lock");
  expect(environment()).not.toHaveProperty("channel");
  expect(environment()).not.toHaveProperty("indexedDB");
  const client = connect({ url: "http://127.0.0.1:9", getToken: () => tokenOf("alice"), userId: "alice" });
  const { kept } = client.direct("bob").send("kept for as long as this process lives");
  await kept;
  expect(client.direct("bob").messages).toMatchObject([{ status: "sending" }]);
  client.close();
});
