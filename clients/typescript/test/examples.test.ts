import { readdir, readFile } from "node:fs/promises";
import { expect, test, vi } from "vitest";
import { badge } from "../examples/events.js";
import { decide } from "../examples/failed.js";
import { looked, scrolledToTop } from "../examples/pages.js";
import { quickstart } from "../examples/quickstart.js";
import type { ConnectOptions } from "../src/index.js";
import { type Tab, tokenOf, world } from "./world.js";

const opened = vi.hoisted(() => ({ by: undefined as unknown as (options: ConnectOptions) => Tab }));
vi.mock("@holdfast/client", async (original) => ({
  ...(await original<typeof import("../src/index.js")>()),
  connect: (options: ConnectOptions) => opened.by(options).client,
}));

test("README.md shows the examples as they are", async () => {
  const text = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const blocks = [...text.matchAll(/<!-- examples\/(\S+) -->\n```ts\n([\s\S]*?)```/g)];
  expect(blocks.map(([, name]) => name).sort()).toEqual(
    (await readdir(new URL("../examples", import.meta.url))).sort(),
  );
  expect(text.match(/```ts/g)).toHaveLength(blocks.length);
  for (const [, name, block] of blocks) {
    expect(block, name).toBe(await readFile(new URL(`../examples/${name}`, import.meta.url), "utf8"));
  }
});

test("the examples run", async () => {
  const { clock, server, browser } = world();
  for (let number = 1; number <= 30; number++) server.accept("alice:bob", "bob", `${number}`, `bob-${number}`);
  let tab!: Tab;
  opened.by = ({ getToken }) => {
    tab = browser.open({ getToken });
    return tab;
  };
  const rendered: (string | undefined)[] = [];
  const running = quickstart(
    "http://gateway",
    async () => tokenOf("alice"),
    (messages) => rendered.push(messages.at(-1)?.status),
  );
  await clock.advance(1_000);
  const { client, chat, message } = await running;
  expect(message).toMatchObject({ content: "hello", senderId: "alice" });
  expect(rendered).toContain("sending");
  expect(rendered.at(-1)).toBe("sent");

  await Promise.all([scrolledToTop(chat), clock.advance(100)]);
  expect(chat.messages).toHaveLength(31);
  await Promise.all([looked(chat), clock.advance(100)]);

  const said: string[] = [];
  const totals: number[] = [];
  badge(
    client,
    (total) => totals.push(total),
    (text) => said.push(text),
  );
  server.accept("alice:bob", "bob", "are you there?", "bob-x");
  server.resync();
  tab.socket.deliver("unreadCount", { chatId: "alice:bob", count: 1, total: 3 });
  await clock.advance(100);
  expect(said).toEqual(["bob: are you there?"]);
  expect(totals).toEqual([3, 0]);

  for (const again of [true, false]) {
    chat.send("bad");
    await clock.advance(100);
    await Promise.all([decide(chat, () => again), clock.advance(100)]);
  }
  expect(chat.messages.map(({ status }) => status)).not.toContain("sending");
  client.close();
});
