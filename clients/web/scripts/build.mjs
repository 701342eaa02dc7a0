// Makes the bundle in the gateway's crate: files whose names stay the same, a version, and the hash of what they are made from.
import { readFile, writeFile } from "node:fs/promises";
import { build } from "vite";
import { bundle, compressed, files, MOST_KB, sourcesHash, versionOf } from "./bundle.mjs";

await build({ root: new URL("..", import.meta.url).pathname, logLevel: "warn" });

const page = new URL("index.html", bundle);
let html = (await readFile(page, "utf8")).replaceAll(" crossorigin", "");
for (const name of ["chat.js", "chat.css"]) html = html.replace(`/web/${name}"`, `/web/${name}?v=__VERSION__"`);
await writeFile(page, html);

// Some packages have another package.json beside what is bundled, which names neither their version nor their licence.
const licences = new URL("licences.md", bundle);
let notices = await readFile(licences, "utf8");
for (const [heading, name] of notices.matchAll(/^## (\S+) - \S+$/gm)) {
  const folder = new URL(`../node_modules/${name}/`, import.meta.url);
  const { version, license } = JSON.parse(await readFile(new URL("package.json", folder), "utf8"));
  const text = await readFile(new URL("LICENSE", folder), "utf8");
  notices = notices.replace(`${heading}\n`, () => `## ${name} - ${version} (${license})\n\n${text.trim()}\n`);
}
await writeFile(licences, notices);

const version = await versionOf();
for (const name of files) {
  const file = new URL(name, bundle);
  const text = await readFile(file, "utf8");
  await writeFile(file, text.replaceAll("__VERSION__", version));
}
await writeFile(new URL("version", bundle), version);
await writeFile(new URL("sources.sha256", bundle), `${await sourcesHash()}\n`);
process.stdout.write(`version ${version}, ${(await compressed()).toFixed(1)} kB with gzip, of at most ${MOST_KB} kB\n`);
