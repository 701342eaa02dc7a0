// A long chat and a long list: how soon the page is there, how smoothly it scrolls, and what it takes.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  atEnd,
  chatOf,
  closeBrowser,
  Gateway,
  openBrowser,
  Person,
  there,
  tidy,
  tokenFor,
  unique,
  until,
} from "./system";

const MESSAGES = 10_000;
const CONVERSATIONS = 500;
const AT_ONCE = 50;

async function send(port: number, from: string, to: string, content: string): Promise<void> {
  const response = await fetch(`http://127.0.0.1:${port}/api/chat/messages`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${tokenFor(from)}`,
      "content-type": "application/json",
      "idempotency-key": content.slice(0, 40),
    },
    body: JSON.stringify({ friendId: to, content }),
  });
  await response.text();
  if (!response.ok) throw new Error(`${response.status}`);
}

async function each(count: number, run: (number: number) => Promise<void>): Promise<void> {
  let next = 0;
  const work = async () => {
    while (next < count) await run(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

// By itself, on a machine that has nothing else to do: `HOLDFAST_LOAD=1`.
describe.skipIf(!there || !process.env.HOLDFAST_LOAD)("a long chat and a long list", () => {
  beforeAll(openBrowser);
  afterAll(closeBrowser);
  afterEach(tidy);

  test("the page opens at once, scrolls without a jam, and stays small", { timeout: 300_000 }, async () => {
    const gateway = await Gateway.start({ MESSAGE_LIMIT: "0", EVENT_LIMIT: "0" });
    atEnd(() => gateway.kill());
    const [alice, bob] = [unique("alice"), unique("bob")];
    await each(CONVERSATIONS, (number) => send(gateway.port, unique(`friend${number}`), alice, `hello ${number}`));
    await each(MESSAGES, (number) =>
      send(gateway.port, bob, alice, `message ${number}: ${"words ".repeat(number % 30)}`),
    );

    const { page, context } = await Person.signIn(alice, gateway.port);
    await page.evaluate(() => navigator.serviceWorker.ready);
    const chat = chatOf(alice, bob);
    await page.locator(`[data-chat="${chat}"]`).click();
    await page.locator("[data-message]").last().waitFor();

    // Once more, as the next morning: the page from the browser's own store, the list from there, too.
    const began = Date.now();
    await page.reload();
    await page.locator(`[data-chat="${chat}"]`).waitFor();
    const listed = Date.now() - began;
    await page.locator("[data-message]").last().waitFor();
    const shown = Date.now() - began;

    await page.evaluate(() => {
      const tasks: number[] = [];
      Object.assign(window, { tasks });
      new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) tasks.push(duration);
      }).observe({ type: "longtask" });
    });
    // The list to its end, and the chat to its beginning.
    const list = page.locator(".rows");
    await until(
      "the whole list was there",
      async () => {
        await list.evaluate((element) => element.scrollBy(0, 2_000));
        return (await page.getByText("hello 0", { exact: true }).count()) > 0 || (await ended());
      },
      60_000,
    );
    async function ended() {
      return list.evaluate(
        (element) =>
          element.scrollHeight - element.scrollTop - element.clientHeight < 1 && element.scrollHeight > 30_000,
      );
    }
    const messages = page.getByRole("region", { name: /^Messages with/ });
    await until(
      "the chat was read to its beginning",
      async () => {
        await messages.evaluate((element) => element.scrollTo(0, 0));
        return (await page.getByText("This is where the chat begins.").count()) > 0;
      },
      200_000,
    );
    for (let step = 0; step < 60; step++) {
      await messages.evaluate((element, down) => element.scrollBy(0, down), step % 2 === 0 ? 3_000 : -2_000);
    }
    const tasks = await page.evaluate(() => (window as unknown as { tasks: number[] }).tasks);
    const session = await context.newCDPSession(page);
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = (await session.send("Runtime.getHeapUsage")) as { usedSize: number };
    const longest = Math.max(0, ...tasks);
    const said = `list after ${listed} ms, chat after ${shown} ms; longest task ${Math.round(longest)} ms of ${tasks.length}; ${(usedSize / 1e6).toFixed(1)} MB`;
    process.stdout.write(`${said}\n`);
    expect(listed, said).toBeLessThan(1_000);
    expect(usedSize, said).toBeLessThan(100e6);
    expect(longest, said).toBeLessThan(100);
  });
});
