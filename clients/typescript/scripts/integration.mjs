// Runs the integration tests against a gateway and a worker of their own: node scripts/integration.mjs PATH_TO_HOLDFAST_LOCAL
// Servers that HOLDFAST_TEST_* name, as in scripts/test, are used; without them holdfast-local starts its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const [program] = process.argv.slice(2);
if (!program) throw new Error("which holdfast-local?");

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

const { HOLDFAST_TEST_REDIS, HOLDFAST_TEST_REDIS_QUEUE, HOLDFAST_TEST_MONGO, HOLDFAST_TEST_KAFKA, ...environment } =
  process.env;
const names = {
  // Beside the tests' own.
  MONGO_DB: "client-library",
  KAFKA_TOPIC: "client-library",
  KAFKA_DLQ_TOPIC: "client-library-dlq",
};
const servers = {
  REDIS_URL: HOLDFAST_TEST_REDIS,
  REDIS_QUEUE_URL: HOLDFAST_TEST_REDIS_QUEUE,
  MONGO_URL: HOLDFAST_TEST_MONGO,
  KAFKA_BROKERS: HOLDFAST_TEST_KAFKA,
};
const given = Object.entries(servers).filter(([, address]) => address);

const data = await mkdtemp(join(tmpdir(), "holdfast-client-"));
const port = await freePort();
const system = spawn(resolve(program), ["--port", `${port}`, "--data", data], {
  env: { ...environment, ...names, ...Object.fromEntries(given) },
  stdio: ["ignore", "pipe", "inherit"],
});
const ended = once(system, "exit");
let code = 1;
try {
  const printed = [];
  for await (const line of createInterface({ input: system.stdout })) {
    printed.push(line);
    if (line === "Holdfast is up.") break;
  }
  system.stdout.resume();
  if (printed.at(-1) !== "Holdfast is up.") throw new Error(`it did not start:\n${printed.join("\n")}`);
  const [, secret] = /^export JWT_SECRET='(.*)'$/m.exec(await readFile(join(data, "env"), "utf8")) ?? [];
  const tests = spawn("npm", ["run", "--silent", "test:integration"], {
    cwd: fileURLToPath(new URL("..", import.meta.url)),
    env: { ...environment, HOLDFAST_URL: `http://127.0.0.1:${port}`, HOLDFAST_JWT_SECRET: secret },
    stdio: "inherit",
  });
  [code] = await once(tests, "exit");
} finally {
  system.kill("SIGTERM");
  await ended;
  await rm(data, { recursive: true, force: true });
}
process.exit(code ?? 1);
