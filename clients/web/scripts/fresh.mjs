// Fails when the committed bundle is not what its sources make, was changed by hand, or is too large.
import { readFile } from "node:fs/promises";
import { bundle, compressed, MOST_KB, sourcesHash, versionOf } from "./bundle.mjs";

const fail = (why) => {
  process.stderr.write(`crates/gateway/web ${why}\n`);
  process.exit(1);
};
const committed = (name) => readFile(new URL(name, bundle), "utf8").catch(() => "");
const version = await committed("version");
if ((await committed("sources.sha256")).trim() !== (await sourcesHash()))
  fail("is older than its sources: npm run build in clients/web, and commit it");
if (version === "" || (await versionOf(version)) !== version) fail("was changed by hand: npm run build in clients/web");
const size = await compressed();
if (size > MOST_KB) fail(`takes ${size.toFixed(1)} kB with gzip, more than ${MOST_KB}`);
process.stdout.write(`The bundle is what its sources make: ${size.toFixed(1)} kB with gzip\n`);
