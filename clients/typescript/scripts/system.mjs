// A gateway, a worker and what they run on, for tests: started by holdfast-local, stopped afterwards.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Runs `tests` beside the system that `program` starts, with its address and its environment as `scripts/run` writes it, and returns what
 * it returns. Servers that HOLDFAST_TEST_* name, as in scripts/test, are used, with a database and topics called `name`; without them
 * holdfast-local starts its own.
 */
export async function withSystem(program, name, tests) {
  const { HOLDFAST_TEST_REDIS, HOLDFAST_TEST_REDIS_QUEUE, HOLDFAST_TEST_MONGO, HOLDFAST_TEST_KAFKA, ...environment } =
    process.env;
  // Beside the tests' own.
  const names = { MONGO_DB: name, KAFKA_TOPIC: name, KAFKA_DLQ_TOPIC: `${name}-dlq` };
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
  try {
    const printed = [];
    for await (const line of createInterface({ input: system.stdout })) {
      printed.push(line);
      if (line === "Holdfast is up.") break;
    }
    system.stdout.resume();
    if (printed.at(-1) !== "Holdfast is up.") throw new Error(`it did not start:\n${printed.join("\n")}`);
    const lines = (await readFile(join(data, "env"), "utf8")).matchAll(/^export (\w+)='(.*)'$/gm);
    const settings = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
    return await tests({ url: `http://127.0.0.1:${port}`, settings, environment });
  } finally {
    system.kill("SIGTERM");
    await ended;
    await rm(data, { recursive: true, force: true });
  }
}

/** Runs a script of a package's, and returns its exit code. */
export async function npmRun(folder, script, environment) {
  const tests = spawn("npm", ["run", "--silent", script], { cwd: folder, env: environment, stdio: "inherit" });
  const [code] = await once(tests, "exit");
  return code ?? 1;
}
