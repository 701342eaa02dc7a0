import { io } from "socket.io-client";
import { expect, test } from "vitest";
import { Connection } from "../src/connection.js";
import { environment } from "../src/environment.js";
import { Clock, START, tokenOf, world } from "./world.js";

const CHAT = "alice:bob";

test("a token that is refused is replaced, at once the first time and then ever more rarely", async () => {
  const { clock, server, browser } = world();
  server.tokens = (token) => token === tokenOf("alice", { fresh: true });
  const tab = browser.open();
  tab.token = () => tokenOf("alice", { fresh: tab.refreshed.at(-1) });
  await clock.advance(15);
  await clock.advance(100);
  expect(tab.refreshed).toEqual([false, true]);
  expect(tab.client.status).toBe("online");

  const other = browser.open();
  server.tokens = () => false;
  const begun = clock.now;
  await clock.advance(120_000);
  const tries = other.refreshed.length;
  expect(other.refreshed.slice(1).every(Boolean)).toBe(true);
  expect(tries).toBeGreaterThan(5);
  expect(tries).toBeLessThan(25);
  expect(clock.now - begun).toBe(120_000);
});

test("a refusal for the token's sake connects again with a new one, and sends again", async () => {
  const { clock, server, browser } = world();
  const tab = browser.open();
  await clock.advance(100);
  server.sendFaults = ["unauthenticated"];
  const { sent } = tab.client.chat(CHAT).send("hello");
  await clock.advance(200);
  expect(tab.refreshed).toEqual([false, true]);
  expect(await sent).toMatchObject({ content: "hello" });
});

test("a token that can't be had is told, and tried again", async () => {
  const { clock, browser } = world();
  const tab = browser.open();
  tab.token = () => Promise.reject(new Error("no network"));
  browser.server.cut();
  await clock.advance(100);
  browser.server.cut();
  await clock.advance(20_000);
  expect(tab.told("error").map(({ message }) => message)).toContain("no network");
  tab.token = () => tokenOf("alice");
  await clock.advance(20_000);
  expect(tab.client.status).toBe("online");
});

test("after a change of network a connection that does not answer is replaced within 2.5 s, and one that does is left", async () => {
  const { clock, server, browser } = world();
  const tab = browser.open();
  await clock.advance(60_000);
  tab.networkChanged();
  await clock.advance(5_000);
  expect(tab.told("status")).toEqual(["online"]);

  // It looks alive, and nothing comes through; the next one would.
  const { emit } = tab.socket;
  tab.socket.emit = () => {};
  tab.networkChanged();
  tab.networkChanged();
  await clock.advance(1_900);
  expect(tab.client.status).toBe("online");
  tab.socket.emit = emit;
  await clock.advance(600);
  expect(tab.told("status")).toEqual(["online", "offline", "connecting", "online"]);
  expect(server.connections.size).toBe(1);
});

test("a network that comes back does not wait for the next attempt", async () => {
  const { clock, server, browser } = world();
  const tab = browser.open();
  await clock.advance(100);
  server.network = false;
  server.cut();
  await clock.advance(300_000);
  expect(tab.client.status).toBe("offline");
  server.network = true;
  tab.networkChanged();
  await clock.advance(20);
  expect(tab.client.status).toBe("online");
});

test("a send without an answer has the connection looked at", async () => {
  const { clock, server, browser } = world();
  const tab = browser.open();
  await clock.advance(100);
  tab.client.chat(CHAT).send("hello");
  server.network = false;
  await clock.advance(6_000 + 2_100);
  server.network = true;
  await clock.advance(1_000);
  expect(tab.told("status").filter((status) => status === "online")).toHaveLength(2);
  expect(server.chat(CHAT).durable.size).toBe(1);
});

test("a gateway that restarts is not met by everybody at once", async () => {
  const times: number[] = [];
  for (let seed = 1; seed <= 20; seed++) {
    const { clock, server, browser } = world(seed);
    const tab = browser.open();
    await clock.advance(10_000);
    server.cut();
    const before = tab.refreshed.length;
    while (tab.refreshed.length === before) await clock.advance(10);
    times.push(clock.now - START - 10_000);
  }
  expect(Math.max(...times) - Math.min(...times)).toBeGreaterThan(150);
  expect(new Set(times).size).toBeGreaterThan(10);
});

/** A real socket of socket.io-client's, on a transport that is none. */
function real(pingExpired: () => boolean) {
  const clock = new Clock();
  const written: unknown[] = [];
  const statuses: string[] = [];
  let socket!: ReturnType<typeof io>;
  const connection = new Connection(
    {
      ...environment(),
      now: () => clock.now,
      setTimeout: (run, ms) => clock.setTimeout(run, ms),
      clearTimeout: (timer) => clock.clearTimeout(timer),
      random: () => 0.5,
      socket: (url, options) => {
        socket = io(url, options);
        const manager = socket.io as unknown as Record<string, unknown>;
        manager.open = () => {
          manager.engine = { transport: { writable: true }, _hasPingExpired: pingExpired, close() {} };
        };
        manager._packet = ({ data }: { data?: unknown[] }) => data && written.push(data);
        return socket as never;
      },
    },
    {
      token: async () => tokenOf("alice"),
      auth: (token) => ({ token }),
      status: (status) => statuses.push(status),
      event: () => {},
      error: () => {},
    },
    "http://127.0.0.1:9",
    {},
  );
  const up = () => {
    Object.assign(socket, { connected: true });
    (socket as unknown as { emitReserved(event: string): void }).emitReserved("connect");
  };
  return { clock, connection, written, statuses, socket: () => socket, up };
}

test("what socket.io would buffer and send again after the reconnect is not left to it", async () => {
  let expired = false;
  const { clock, connection, written, statuses, socket, up } = real(() => expired);
  connection.open();
  await clock.settle();

  // While it connects.
  await expect(connection.request("unread", {})).rejects.toMatchObject({ reason: "disconnected" });
  expect(socket().sendBuffer).toEqual([]);

  up();
  const answered = connection.request("unread", {});
  answered.catch(() => {});
  expect(written).toHaveLength(1);

  // Connected by its own account, but it has heard nothing for so long that socket.io keeps what is emitted for the next connection.
  expired = true;
  const sent = connection.request("sendMessage", { tempId: "t", chatId: CHAT, content: "once" });
  await expect(sent).rejects.toMatchObject({ reason: "disconnected" });
  await expect(answered).rejects.toMatchObject({ reason: "disconnected" });
  expect(socket().sendBuffer).toEqual([]);
  expect(statuses).toEqual(["connecting", "online", "offline"]);

  expired = false;
  await clock.advance(1);
  up();
  expect(connection.status).toBe("online");
  expect(written.map((data) => (data as unknown[])[0])).toEqual(["unread"]);
  connection.close();
});

test("the options that would make socket.io repeat or reconnect by itself can't be given", async () => {
  const { connection, socket } = real(() => false);
  const options = (socket() as unknown as { _opts: Record<string, unknown> })._opts;
  expect(options).toMatchObject({ autoConnect: false, retries: 0 });
  expect(socket().io.reconnection()).toBe(false);
  connection.close();
});
