// Every view: nothing serious that axe-core finds, and pictures of the main ones. UPDATE_PICTURES=1 puts those into docs/pictures.
import { mkdir, readFile, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { AxeResults } from "axe-core";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { closeBrowser, newContext, openBrowser, Person, standing, there, tidy, unique, until } from "./system";

const pictures = process.env.UPDATE_PICTURES
  ? fileURLToPath(new URL("../../../../docs/pictures", import.meta.url))
  : join(tmpdir(), "holdfast-pictures");
const MOST_BYTES = 100_000;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

async function picture(page: Page, name: string): Promise<void> {
  const path = join(pictures, `${name}.png`);
  await page.mouse.move(0, 0);
  await page.screenshot({ path, animations: "disabled", caret: "hide" });
  expect((await stat(path)).size).toBeLessThan(MOST_BYTES);
}

/** Runs beside the page's scripts, past its policy: that concerns the page, not who looks at it. */
async function accessible(page: Page, view: string): Promise<void> {
  const session = await page.context().newCDPSession(page);
  // A colour that is on its way to another is none that anybody reads.
  const settled =
    "Promise.all(document.getAnimations().filter((a) => a instanceof CSSTransition).map((a) => a.finished.catch(() => {})))";
  const run = `${axe}; ${settled}.then(() => axe.run(document, { resultTypes: ["violations"] }))`;
  await session.send("Page.enable");
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId } = await session.send("Page.createIsolatedWorld", { frameId: frameTree.frame.id });
  const { result, exceptionDetails } = await session.send("Runtime.evaluate", {
    expression: run,
    contextId: executionContextId,
    awaitPromise: true,
    returnByValue: true,
  });
  await session.detach();
  expect(exceptionDetails).toBeUndefined();
  // A menu stands outside of every landmark: it is the one thing that there is as long as it is open.
  const serious = (result.value as AxeResults).violations
    .filter(({ id, impact }) => impact !== "minor" && id !== "region")
    .map(
      ({ id, nodes }) => `${view}: ${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`)}`,
    );
  expect(serious).toEqual([]);
}

describe.skipIf(!there)("the views", () => {
  beforeAll(async () => {
    await mkdir(pictures, { recursive: true });
    await openBrowser();
  });
  afterAll(closeBrowser);
  afterEach(tidy);

  async function named(id: string, displayName: string): Promise<Person> {
    const person = await Person.signIn(id, standing, { viewport: { width: 1100, height: 720 } });
    await person.page.getByRole("button", { name: "Menu", exact: true }).click();
    await person.page.getByRole("menuitem", { name: "Your profile" }).click();
    await person.page.getByLabel("Name", { exact: true }).fill(displayName);
    await person.page.getByRole("button", { name: "Save" }).click();
    await until("the profile is saved", async () => (await person.page.getByRole("dialog").count()) === 0);
    return person;
  }

  test("signing in", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const context = await newContext({ colorScheme });
      const page = await context.newPage();
      await page.goto(`http://127.0.0.1:${standing}/`);
      await page.getByLabel("User name").waitFor();
      await accessible(page, `signing in, ${colorScheme}`);
    }
  });

  test("the chat and its dialogs, wide, narrow and dark", { timeout: 300_000 }, async () => {
    // Their colours come from their ids: in the pictures those are the same each time.
    const ids = ["ada", "grace", "alan"].map((name) => (process.env.UPDATE_PICTURES ? name : unique(name)));
    const [adaId, graceId, alanId] = ids as [string, string, string];
    const ada = await named(adaId, "Ada Lovelace");
    const grace = await named(graceId, "Grace Hopper");
    const alan = await named(alanId, "Alan Turing");
    await alan.openChatWith(adaId);
    await alan.write("The tape arrived, all of it this time.");
    await alan.allSent();

    await ada.page.getByRole("button", { name: "New chat" }).click();
    await accessible(ada.page, "a new chat");
    await ada.page.getByRole("tab", { name: "A group" }).click();
    await accessible(ada.page, "a new group");
    await ada.page.getByLabel("Name", { exact: true }).fill("Night shift");
    await ada.page.getByLabel("Members").fill(`${graceId}, ${alanId}`);
    await ada.page.getByRole("button", { name: "Make the group" }).click();
    await ada.page.getByRole("heading", { name: "Night shift" }).waitFor();
    await accessible(ada.page, "a chat without messages");
    await ada.write("Who takes the relay room tonight?");
    await grace.page.getByRole("link", { name: /Night shift/ }).click();
    await grace.write("I do. Bring tweezers, there is a moth in it again.");
    await ada.allSent();
    await grace.allSent();
    await ada.page.getByRole("button", { name: "About this group" }).click();
    await ada.page.getByText("3 members", { exact: true }).waitFor();
    await accessible(ada.page, "a group");
    await picture(ada.page, "group");
    await ada.page.getByRole("button", { name: "What to do with Grace Hopper" }).click();
    await ada.page.getByRole("menuitem", { name: "Make an admin" }).waitFor();
    await accessible(ada.page, "what to do with a member");
    await ada.page.keyboard.press("Escape");
    await ada.page.keyboard.press("Escape");

    await ada.openChatWith(graceId);
    await grace.openChatWith(adaId);
    const said: [Person, string][] = [
      [ada, "Did the last card deck go through?"],
      [grace, "All of it. The gateway was restarted in the middle, and still every card came out once."],
      [ada, "In order?"],
      [grace, "In order 🙂"],
      [ada, "Then I can stop keeping a paper copy."],
      [grace, "Keep one. I keep the moth, too."],
    ];
    for (const [person, text] of said) {
      await person.write(text);
      await person.allSent();
      const other = person === ada ? grace : ada;
      await until("the other sees it", async () => (await other.texts()).at(-1) === text);
    }
    await until("it is read", async () =>
      (await ada.messages()).every(({ status }) => status === "read" || status === "received"),
    );
    await grace.page
      .getByRole("textbox", { name: /^Write to/ })
      .pressSequentially("One more thing, before I go", { delay: 120 });
    await ada.page.getByText("typing…").first().waitFor();
    await accessible(ada.page, "a chat");
    await picture(ada.page, "chat");
    await grace.page.getByRole("textbox", { name: /^Write to/ }).fill("");

    await ada.page.emulateMedia({ colorScheme: "dark" });
    await accessible(ada.page, "a chat, dark");
    await ada.page.getByRole("button", { name: "About this person" }).click();
    await ada.page.getByText("You are not friends.").waitFor();
    await accessible(ada.page, "a person, dark");
    await ada.page.keyboard.press("Escape");
    await ada.page.getByRole("button", { name: "Search in this chat" }).click();
    await ada.page.getByRole("searchbox", { name: /^Search in / }).fill("moth");
    await accessible(ada.page, "search, dark");
    await ada.page.keyboard.press("Escape");
    ada.line.cut();
    await ada.page.getByText("No connection.").waitFor();
    await ada.write("This one waits for the line.");
    await accessible(ada.page, "without a connection, dark");
    await picture(ada.page, "offline-dark");
    ada.line.mend();
    await ada.allSent();

    await ada.page.emulateMedia({ colorScheme: "light" });
    await ada.page.setViewportSize({ width: 390, height: 760 });
    await until("the end is in view", async () => (await ada.texts()).at(-1) === "This one waits for the line.");
    await accessible(ada.page, "a chat, narrow");
    await picture(ada.page, "chat-narrow");
    await ada.page.getByRole("button", { name: "Back to the conversations" }).click();
    await ada.page.getByRole("link", { name: /Alan Turing/ }).waitFor();
    await accessible(ada.page, "the list, narrow");
    await picture(ada.page, "list-narrow");
    await ada.page.getByRole("button", { name: "Menu", exact: true }).click();
    await ada.page.getByRole("menuitem", { name: "Sign out" }).waitFor();
    await accessible(ada.page, "the menu, narrow");
    // Nothing stands out at the side.
    expect(await ada.page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
  });
});
