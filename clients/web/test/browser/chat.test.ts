// What the page promises, in a browser, on a real gateway and what it runs on.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  atEnd,
  chatOf,
  closeBrowser,
  flushRedis,
  Gateway,
  newContext,
  openBrowser,
  Person,
  standing,
  there,
  tidy,
  tokenFor,
  unique,
  until,
} from "./system";

/** So that every message of a test is drawn. */
const TALL = { viewport: { width: 1000, height: 5_000 } };

describe.skipIf(!there)("the chat", () => {
  beforeAll(openBrowser);
  afterAll(closeBrowser);
  afterEach(tidy);

  async function pair(ports: [number, number] = [standing, standing], options = {}): Promise<[Person, Person]> {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const both = await Promise.all([Person.signIn(alice, ports[0], options), Person.signIn(bob, ports[1], options)]);
    await both[0].openChatWith(bob);
    await both[1].openChatWith(alice);
    return both;
  }

  test("two people chat: each message is sent, stored and read, and each sees the other type and be there", async () => {
    const [alice, bob] = await pair();
    await alice.write("hello");
    await bob.sees(["hello"]);
    await bob.write("hello yourself");
    await alice.sees(["hello", "hello yourself"]);
    await until("hers is read", async () => (await alice.messages())[0]?.status === "read");
    await expect
      .poll(() => alice.page.getByText("online", { exact: true }).count(), { timeout: 20_000 })
      .toBeGreaterThan(0);
    await bob.page
      .getByRole("textbox", { name: /^Write to/ })
      .pressSequentially("I am not done yet, far from it", { delay: 120 });
    await alice.page.getByText("typing…").first().waitFor();
  });

  test("text is text, whatever it says, and a picture of somebody else’s is not loaded unasked", async () => {
    const [alice, bob] = await pair();
    const hostile = `<img src=x onerror="document.title='owned'"> <b>&amp;</b> {{7*7}} \u202Ereversed`;
    await alice.write(hostile);
    await bob.sees([hostile]);
    expect(await bob.page.locator(".text img, .text b").count()).toBe(0);
    expect(await bob.page.title()).not.toContain("owned");

    const asked: string[] = [];
    await bob.context.route("https://pictures.example/**", (route) => {
      asked.push(route.request().url());
      return route.fulfill({
        contentType: "image/svg+xml",
        body: '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
      });
    });
    await alice.context.route("https://pictures.example/**", (route) => route.abort());
    await alice.page.getByRole("button", { name: "Add a picture by its address" }).click();
    await alice.page.getByLabel("Address", { exact: true }).fill("https://pictures.example/one.svg");
    await alice.page.getByRole("button", { name: "Add", exact: true }).click();
    await alice.write("look");
    const show = bob.page.getByRole("button", { name: "Show the picture from pictures.example" });
    await show.waitFor();
    expect(asked).toEqual([]);
    await show.click();
    await bob.page.getByRole("img", { name: "From pictures.example" }).waitFor();
    expect(asked).toEqual(["https://pictures.example/one.svg"]);
  });

  test("three messages that are written without a connection, over a reload, arrive once and in order", async () => {
    const [alice, bob] = await pair();
    await alice.write("before");
    await bob.sees(["before"]);
    await alice.allSent();
    // The page itself is kept from here on.
    await alice.page.evaluate(() => navigator.serviceWorker.ready);
    await until("the page is kept", () => alice.page.evaluate(async () => (await caches.keys()).length > 0));

    alice.line.cut();
    await alice.page.getByText("No connection.").waitFor();
    for (const text of ["one", "two", "three"]) await alice.write(text);
    await alice.sees(["before", "one", "two", "three"]);
    await alice.page.reload();
    // What came before was not kept; what waits is.
    await alice.sees(["one", "two", "three"]);
    expect((await alice.messages()).map(({ status }) => status)).toEqual(["sending", "sending", "sending"]);
    await alice.page.getByText("No connection.").waitFor();
    await bob.sees(["before"]);

    alice.line.mend();
    await bob.sees(["before", "one", "two", "three"]);
    await alice.sees(["before", "one", "two", "three"]);
    await alice.allSent();
    await bob.page.reload();
    await bob.sees(["before", "one", "two", "three"]);
  });

  test("the line that a developer cuts stays cut over a reload, and what was written meanwhile is sent when it is mended", async () => {
    const [alice, bob] = await pair();
    await alice.page.getByRole("button", { name: "Menu", exact: true }).click();
    await alice.page.getByRole("menuitemcheckbox", { name: "Cut the line" }).click();
    await alice.page.getByText("The line is cut.").waitFor();
    await alice.write("kept");
    await alice.page.reload();
    await alice.page.getByText("The line is cut.").waitFor();
    await alice.sees(["kept"]);
    await alice.page.getByRole("button", { name: "Mend the line" }).click();
    await bob.sees(["kept"]);
    await alice.allSent();
  });

  /** Both write, alternately and at the same time, while something happens to the system. */
  async function converse(alice: Person, bob: Person, rounds: number, meanwhile: (round: number) => Promise<void>) {
    const written: string[] = [];
    for (let round = 0; round < rounds; round++) {
      const texts = [`alice ${round}`, `bob ${round}`];
      written.push(...texts);
      await Promise.all([alice.write(texts[0]!), bob.write(texts[1]!), meanwhile(round)]);
    }
    await Promise.all([alice.allSent(), bob.allSent()]);
    const everything = async (person: Person) => (await person.texts()).length === written.length;
    await until("both see everything", async () => (await everything(alice)) && (await everything(bob))).catch(
      () => {},
    );
    const [hers, his] = [await alice.texts(), await bob.texts()];
    expect([...hers].sort()).toEqual([...written].sort());
    expect(his).toEqual(hers);
    for (const name of ["alice", "bob"]) {
      const own = hers.filter((text) => text.startsWith(name));
      expect(own).toEqual(Array.from({ length: rounds }, (_, round) => `${name} ${round}`));
    }
    // What is stored says the same. Right after the cache was emptied, what the worker has yet to store is nowhere to be read.
    const chat = chatOf(alice.name, bob.name);
    await until("it is stored", async () => JSON.stringify(await alice.history(chat)) === JSON.stringify(hers));
    await alice.page.reload();
    await alice.sees(hers);
  }

  test("a gateway is killed and started again amid a conversation: nothing is missing, and both see one order", async () => {
    const gateway = await Gateway.start();
    atEnd(() => gateway.kill());
    const [alice, bob] = await pair([gateway.port, gateway.port], TALL);
    let started = Promise.resolve();
    await converse(alice, bob, 16, async (round) => {
      if (round === 5) {
        await gateway.kill();
        started = gateway.begin();
      }
    });
    await started;
  });

  test("one of two gateways is killed amid a conversation over both: the same", async () => {
    const gateway = await Gateway.start();
    atEnd(() => gateway.kill());
    const [alice, bob] = await pair([gateway.port, standing], TALL);
    let started = Promise.resolve();
    await converse(alice, bob, 16, async (round) => {
      if (round === 4 || round === 10) {
        await started;
        await gateway.kill();
        started = gateway.begin();
      }
    });
    await started;
  });

  test("Redis is emptied amid a conversation: the same", async () => {
    const [alice, bob] = await pair(undefined, TALL);
    await converse(alice, bob, 12, async (round) => {
      if (round === 3 || round === 7) await flushRedis();
    });
  });

  test("another tab sees unread rise and fall", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const hers = await Person.signIn(alice);
    await hers.openChatWith(bob);
    const reading = await Person.signIn(bob);
    const watching = await reading.otherTab();
    const device = await Person.signIn(bob);
    const chat = chatOf(alice, bob);
    for (const text of ["one", "two", "three"]) await hers.write(text);
    for (const tab of [watching, device]) {
      await until("unread rises", async () => (await tab.unread(chat)) === 3);
      expect(await tab.page.title()).toBe("(3) Holdfast");
    }
    await reading.page.bringToFront();
    await reading.row(chat).click();
    await reading.sees(["one", "two", "three"]);
    for (const tab of [watching, device, reading])
      await until("unread falls", async () => (await tab.unread(chat)) === 0);
    await until("it is read", async () => (await hers.messages()).every(({ status }) => status === "read"));
    // What one tab writes, the others show.
    await reading.write("four");
    await until("the list moves", async () => /You: four/.test((await device.row(chat).textContent()) ?? ""));
  });

  test("a group: made, renamed, joined, with roles, left", async () => {
    const [alice, bob, carol] = [unique("alice"), unique("bob"), unique("carol")];
    const hers = await Person.signIn(alice);
    const his = await Person.signIn(bob);
    await hers.page.getByRole("button", { name: "New chat" }).click();
    await hers.page.getByRole("tab", { name: "A group" }).click();
    await hers.page.getByLabel("Name", { exact: true }).fill("Climbing");
    await hers.page.getByLabel("Members").fill(bob);
    await hers.page.getByRole("button", { name: "Make the group" }).click();
    await hers.write("who is in?");
    const row = his.page.getByRole("link", { name: /Climbing/ });
    await row.click();
    await his.sees(["who is in?"]);
    await his.write("I am");
    await hers.sees(["who is in?", "I am"]);

    await hers.page.getByRole("button", { name: "About this group" }).click();
    await hers.page.getByLabel("Name", { exact: true }).fill("Climbing on Friday");
    await hers.page.getByRole("button", { name: "Rename" }).click();
    await his.page.getByRole("heading", { name: "Climbing on Friday" }).waitFor();
    await hers.page.getByLabel("Add a member").fill(carol);
    await hers.page.getByRole("button", { name: "Add", exact: true }).click();
    await hers.page.getByText("3 members", { exact: true }).waitFor();
    await hers.page.getByRole("button", { name: `What to do with ${bob}` }).click();
    await hers.page.getByRole("menuitem", { name: "Make an admin" }).click();
    await hers.page.getByRole("listitem").filter({ hasText: bob }).getByText("admin", { exact: true }).waitFor();

    await his.page.getByRole("button", { name: "About this group" }).click();
    await his.page.getByRole("button", { name: `What to do with ${carol}` }).click();
    await his.page.getByRole("menuitem", { name: "Remove" }).click();
    await his.page.getByText("2 members", { exact: true }).waitFor();
    await his.page.getByRole("button", { name: "Leave the group" }).click();
    await his.page
      .getByRole("group", { name: "Leave this group?" })
      .getByRole("button", { name: "Leave the group" })
      .click();
    await until("it is gone from his list", async () => (await row.count()) === 0);
  });

  test("friends, and a block that stops a message, which waits until somebody decides", async () => {
    const [alice, bob] = await pair();
    const about = async (person: Person) => person.page.getByRole("button", { name: "About this person" }).click();
    const closeDialog = async (person: Person) => person.page.getByRole("button", { name: "Close" }).click();
    await about(alice);
    await alice.page.getByRole("button", { name: "Ask to be friends" }).click();
    await alice.page.getByText("You have asked to be friends.").waitFor();
    await closeDialog(alice);
    await about(bob);
    await bob.page.getByRole("button", { name: "Accept" }).click();
    await bob.page.getByText("You are friends.").waitFor();
    await bob.page.getByRole("button", { name: "Block", exact: true }).click();
    await bob.page.getByText("You are not friends.").waitFor();

    // It holds on every gateway within 2 s.
    await new Promise((resolve) => setTimeout(resolve, 2_500));
    await alice.write("are you there?");
    await until("it is refused", async () => (await alice.messages())[0]?.status === "failed");
    await bob.page.getByRole("button", { name: "Unblock" }).click();
    await bob.page.getByText(/is not blocked by you/).waitFor();
    await closeDialog(bob);
    await new Promise((resolve) => setTimeout(resolve, 2_500));
    await alice.page.getByRole("button", { name: "Try again" }).click();
    await bob.sees(["are you there?"]);
    await alice.allSent();
  });

  test("history comes by scrolling up, and search finds what is loaded", { timeout: 240_000 }, async () => {
    const [alice, bob] = await pair();
    // By the outbox, as fast as it goes.
    for (let number = 0; number < 120; number++) await alice.write(`message ${number}`);
    await alice.allSent();
    await bob.page.reload();
    await until("the newest is there", async () => (await bob.texts()).at(-1) === "message 119");
    const list = bob.page.getByRole("region", { name: /^Messages with/ });
    await until(
      "the beginning is there",
      async () => {
        await list.evaluate((element) => element.scrollTo(0, 0));
        return (await bob.texts()).includes("message 0");
      },
      30_000,
    );
    // As soon as the store has caught up: until then a page says that it may lack something.
    await bob.page.getByText("This is where the chat begins.").waitFor({ timeout: 90_000 });
    const drawn = await bob.texts();
    expect(drawn.length).toBeLessThan(80);
    expect(drawn).toEqual(Array.from(drawn, (_, number) => `message ${number}`));

    await bob.page.getByRole("button", { name: "Search in this chat" }).click();
    const box = bob.page.getByRole("searchbox", { name: /^Search in / });
    await box.fill("MESSAGE 77");
    await bob.page.getByText("1 of 1").waitFor();
    await box.press("Enter");
    await bob.page.locator(".bubble.current").getByText("message 77").waitFor();
    await box.press("Escape");
    await bob.page.getByRole("button", { name: "To the newest message" }).click();
    await until("the end is there", async () => (await bob.texts()).at(-1) === "message 119");
  });

  test("everything can be done by keys", async () => {
    const [alice, bob, carol] = [unique("alice"), unique("bob"), unique("carol")];
    const { page } = await Person.signIn(alice);
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? "");
    const tabTo = async (label: RegExp) => {
      for (let stop = 0; stop < 20 && !label.test(await focused()); stop++) await page.keyboard.press("Tab");
      expect(await focused()).toMatch(label);
    };
    for (const friend of [bob, carol]) {
      await page.keyboard.press("Control+k");
      await page.keyboard.press("Shift+Tab");
      expect(await focused()).toBe("New chat");
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor();
      await page.getByLabel("User name").focus();
      await page.keyboard.type(friend);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: friend }).waitFor();
      await tabTo(/^Write to/);
      await page.keyboard.type(`hello ${friend}`);
      await page.keyboard.press("Enter");
      await page.locator('[data-status="sent"]').waitFor();
    }
    await page.keyboard.press("Control+k");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: bob }).waitFor();
    await page.keyboard.press("Alt+ArrowUp");
    await page.getByRole("heading", { name: carol }).waitFor();
  });

  test("outside the development profile one signs in with a token, again when it has expired, and signing out leaves nothing", async () => {
    const gateway = await Gateway.start({ PROFILE: "testing", WEB_UI: "true" });
    atEnd(() => gateway.kill());
    const [alice, bob] = [unique("alice"), unique("bob")];
    const page = await (await newContext()).newPage();
    await page.goto(`http://127.0.0.1:${gateway.port}/`);
    const signIn = async (token: string) => {
      await page.getByLabel("Token", { exact: true }).fill(token);
      await page.getByRole("button", { name: "Sign in" }).click();
    };
    await signIn("no token");
    await page.getByText("This is no token").waitFor();
    await signIn(tokenFor(alice, 8));
    await page.getByRole("button", { name: "New chat" }).click();
    await page.getByLabel("User name").fill(bob);
    await page.getByRole("button", { name: "Open", exact: true }).click();
    const box = page.getByRole("textbox", { name: /^Write to/ });
    await box.fill("before it expires");
    await box.press("Enter");
    await page.locator('[data-status="sent"]').waitFor();

    await page.getByLabel("Token", { exact: true }).waitFor();
    await signIn(tokenFor(bob));
    await page.getByText(`This token belongs to ${bob}, not to ${alice}`).waitFor();
    await signIn(tokenFor(alice));
    await page.locator("[data-message]").getByText("before it expires").waitFor();
    // The switch is the developers'.
    await page.getByRole("button", { name: "Menu", exact: true }).click();
    expect(await page.getByRole("menuitemcheckbox", { name: "Cut the line" }).count()).toBe(0);
    await page.getByRole("menuitem", { name: "Sign out" }).click();
    await page.getByLabel("Token", { exact: true }).waitFor();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
    expect(kept).not.toContain("before it expires");
    expect(kept).not.toContain(alice);
  });

  test("a message that comes while nobody looks shows a notification, if that is wanted", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const his = await Person.signIn(bob, standing, { permissions: ["notifications"] });
    await his.page.evaluate(() => navigator.serviceWorker.ready);
    await his.page.getByRole("button", { name: "Menu", exact: true }).click();
    await his.page.getByRole("menuitemcheckbox", { name: "Notifications" }).click();
    await his.page.keyboard.press("Escape");
    // A page that is not looked at.
    await his.page.evaluate(() => Object.defineProperty(document, "visibilityState", { value: "hidden" }));
    const hers = await Person.signIn(alice);
    await hers.openChatWith(bob);
    await hers.write("are you there?");
    const shown = () =>
      his.page.evaluate(async () => {
        const worker = await navigator.serviceWorker.ready;
        return (await worker.getNotifications()).map(({ title, body }) => `${title}: ${body}`);
      });
    await until("it is shown", async () => (await shown()).includes(`${alice}: are you there?`), 20_000);
  });
});
