// A gateway that can be killed, lines that can be cut, and people at browsers.
import { type ChildProcess, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { expect } from "vitest";

const { HOLDFAST_URL = "", HOLDFAST_SETTINGS = "{}", HOLDFAST_BINARIES = "", HOLDFAST_CHROMIUM } = process.env;
export const there = HOLDFAST_URL !== "";
if (!there) process.stdout.write("Skipped: HOLDFAST_URL does not say where a gateway is\n");
const settings = JSON.parse(HOLDFAST_SETTINGS) as Record<string, string>;
export const standing = Number(new URL(HOLDFAST_URL || "http://127.0.0.1:0").port);

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Whatever has to come true in time. */
export async function until(what: string, wanted: () => Promise<boolean>, ms = 60_000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await wanted())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await pause(50);
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** A gateway beside the one that stands, on the same servers. */
export class Gateway {
  private child: ChildProcess | undefined;
  private constructor(
    readonly port: number,
    private readonly operators: number,
    private readonly more: Record<string, string>,
  ) {}

  static async start(more: Record<string, string> = {}): Promise<Gateway> {
    const gateway = new Gateway(await freePort(), await freePort(), more);
    await gateway.begin();
    return gateway;
  }

  async begin(): Promise<void> {
    const own = { PORT: `${this.port}`, OPS_ADDR: `127.0.0.1:${this.operators}` };
    this.child = spawn(`${HOLDFAST_BINARIES}/holdfast-gateway`, {
      env: { ...process.env, ...settings, ...this.more, ...own },
      stdio: ["ignore", "ignore", "ignore"],
    });
    const ok = (url: string) =>
      fetch(url).then(
        ({ ok }) => ok,
        () => false,
      );
    const page = `http://127.0.0.1:${this.port}/`;
    await until(
      "the gateway is ready",
      async () => (await ok(`http://127.0.0.1:${this.operators}/health/ready`)) && (await ok(page)),
    );
  }

  /** At once, whatever it is doing. */
  async kill(): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
}

/** What lies between a browser and a gateway. */
export class Line {
  private readonly sockets = new Set<Socket>();
  private cut_ = false;
  private constructor(
    private readonly server: Server,
    private readonly target: number,
  ) {
    server.on("connection", (socket: Socket) => this.carry(socket));
  }

  static async to(target: number): Promise<Line> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    return new Line(server, target);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as { port: number }).port}/`;
  }

  cut(): void {
    this.cut_ = true;
    for (const socket of this.sockets) socket.destroy();
  }

  mend(): void {
    this.cut_ = false;
  }

  end(): void {
    this.cut();
    this.server.close();
  }

  private carry(socket: Socket): void {
    if (this.cut_) return void socket.destroy();
    const beyond = connect(this.target, "127.0.0.1");
    for (const [one, other] of [
      [socket, beyond],
      [beyond, socket],
    ] as const) {
      this.sockets.add(one);
      one.setNoDelay();
      one.pipe(other);
      one.on("error", () => {});
      one.on("close", () => {
        this.sockets.delete(one);
        other.destroy();
      });
    }
  }
}

/** Empties the cache. */
export async function flushRedis(): Promise<void> {
  const { hostname, port, password } = new URL(settings.REDIS_URL!);
  const socket = connect(Number(port), hostname);
  await once(socket, "connect");
  if (password) socket.write(`AUTH ${password}\r\n`);
  socket.write("FLUSHALL\r\n");
  const [answer] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  expect(`${answer}`).toContain("+OK");
}

let browser: Browser | undefined;
const ends: (() => unknown)[] = [];
/** What no page may say: scripts that fail, and what the Content-Security-Policy stops. */
const complaints: string[] = [];

export async function openBrowser(): Promise<void> {
  browser = await chromium.launch({ executablePath: HOLDFAST_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
}

export async function closeBrowser(): Promise<void> {
  await browser?.close();
}

/** After a test. */
export async function tidy(): Promise<void> {
  for (const end of ends.splice(0).reverse()) await end();
  expect(complaints.splice(0)).toEqual([]);
}

export const atEnd = (end: () => unknown): void => void ends.push(end);

export async function newContext(options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const context = await browser!.newContext({ viewport: { width: 1100, height: 900 }, locale: "en-GB", ...options });
  atEnd(() => context.close());
  context.on("weberror", (error) => complaints.push(`${error.error()}`));
  context.on("console", (message) => {
    const text = message.text();
    if (/Content.Security.Policy|TrustedHTML|TrustedScript/i.test(text)) complaints.push(text);
  });
  return context;
}

/** A user's token, as an application would issue it. */
export function tokenFor(user: string, seconds = 3_600): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1_000) + seconds };
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${body}.${createHmac("sha256", settings.JWT_SECRET!).update(body).digest("base64url")}`;
}

let run = 0;
/** A name that nobody had before. */
export const unique = (name: string): string => `${name}-${Date.now().toString(36)}${run++}`;

/** Somebody at a browser. */
export class Person {
  private constructor(
    readonly name: string,
    readonly context: BrowserContext,
    readonly page: Page,
    readonly line: Line,
  ) {}

  /** Signs in, through a line to the gateway at `port`. */
  static async signIn(name: string, port = standing, options: BrowserContextOptions = {}): Promise<Person> {
    const line = await Line.to(port);
    atEnd(() => line.end());
    const context = await newContext(options);
    const page = await context.newPage();
    await page.goto(line.url);
    await page.getByLabel("User name").fill(name);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("button", { name: "New chat" }).waitFor();
    return new Person(name, context, page, line);
  }

  /** Another tab of the same browser, for the same user. */
  async otherTab(): Promise<Person> {
    const page = await this.context.newPage();
    await page.goto(this.line.url);
    await page.getByRole("button", { name: "New chat" }).waitFor();
    return new Person(this.name, this.context, page, this.line);
  }

  async openChatWith(friend: string): Promise<void> {
    await this.page.getByRole("button", { name: "New chat" }).click();
    await this.page.getByLabel("User name").fill(friend);
    await this.page.getByRole("button", { name: "Open", exact: true }).click();
    await this.page.getByRole("textbox", { name: /^Write to/ }).waitFor();
  }

  async write(text: string): Promise<void> {
    const box = this.page.getByRole("textbox", { name: /^Write to/ });
    await box.fill(text);
    await box.press("Enter");
  }

  /** Every message that is drawn, from top to bottom. */
  async messages(): Promise<{ text: string; status: string }[]> {
    return this.page.locator("[data-message]").evaluateAll((all) =>
      all
        .map((bubble) => ({
          text: bubble.querySelector(".text")?.textContent ?? "",
          status: bubble.getAttribute("data-status") ?? "",
          top: bubble.getBoundingClientRect().top,
        }))
        .sort((one, other) => one.top - other.top)
        .map(({ text, status }) => ({ text, status })),
    );
  }

  async texts(): Promise<string[]> {
    return (await this.messages()).map(({ text }) => text);
  }

  async sees(texts: string[], ms?: number): Promise<void> {
    const seen = async () => JSON.stringify(await this.texts()) === JSON.stringify(texts);
    await until(`${this.name} sees ${texts.join(", ")}`, seen, ms).catch(async (error: Error) => {
      throw new Error(`${error.message}; instead ${(await this.texts()).join(", ")}`);
    });
  }

  /** Everything that they wrote is durable. */
  async allSent(): Promise<void> {
    const open = async () =>
      (await this.messages()).filter(({ status }) => status === "sending" || status === "failed");
    await until(`what ${this.name} wrote is sent`, async () => (await open()).length === 0);
  }

  /** What the gateway says that was said, oldest first. */
  history(chatId: string): Promise<string[]> {
    return this.page.evaluate(async (chatId) => {
      const { token } = JSON.parse(sessionStorage.getItem("holdfast session") ?? "{}") as { token: string };
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`/api/chats/${chatId}/messages?limit=100`, { headers });
      const { messages } = (await response.json()) as { messages: { content: string }[] };
      return messages.map(({ content }) => content).reverse();
    }, chatId);
  }

  row(chatId: string) {
    return this.page.locator(`[data-chat="${chatId}"]`);
  }

  async unread(chatId: string): Promise<number> {
    // In one look: it may go at any moment.
    const [text] = await this.row(chatId).locator(".unread").allTextContents();
    return Number.parseInt(text ?? "0", 10);
  }
}

export const chatOf = (one: string, other: string): string => [one, other].sort().join(":");
