// What the bundle in the gateway's crate is made from, and what it has to be.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const root = new URL("../", import.meta.url);
/** Where the gateway's crate has it. */
export const bundle = new URL("../../crates/gateway/web/", root);
/** What is served, in the order in which it is hashed. */
export const files = ["index.html", "chat.js", "chat.css", "sw.js", "icon.svg", "manifest.webmanifest", "licences.md"];
/** All of it, with gzip. */
export const MOST_KB = 250;

const sources = [
  "index.html",
  "package-lock.json",
  "public",
  "scripts/build.mjs",
  "scripts/bundle.mjs",
  "src",
  "vite.config.ts",
  "../typescript/src",
];

async function below(path) {
  const url = new URL(path, root);
  const entries = await readdir(url, { withFileTypes: true, recursive: true }).catch(() => undefined);
  if (!entries) return [fileURLToPath(url)];
  return entries.filter((entry) => entry.isFile()).map((entry) => `${entry.parentPath}/${entry.name}`);
}

async function hash(paths) {
  const all = createHash("sha256");
  for (const path of paths) {
    const content = createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
    all.update(`${content}\n`);
  }
  return all.digest("hex");
}

/** The hash of everything that the bundle is made from, names included. */
export async function sourcesHash() {
  const home = fileURLToPath(new URL("../", root));
  const paths = (await Promise.all(sources.map(below))).flat().sort();
  const names = createHash("sha256")
    .update(paths.map((path) => path.slice(home.length)).join("\n"))
    .digest("hex");
  return createHash("sha256")
    .update(names)
    .update(await hash(paths))
    .digest("hex");
}

/** The version of the files as they are, but for the version itself, which is in them. */
export async function versionOf(placeholder) {
  const all = createHash("sha256");
  for (const name of files) {
    const text = await readFile(new URL(name, bundle), "utf8");
    all.update(`${name}\n`).update(placeholder ? text.replaceAll(placeholder, "__VERSION__") : text);
  }
  return all.digest("hex").slice(0, 16);
}

export async function compressed() {
  let bytes = 0;
  for (const name of files) bytes += gzipSync(await readFile(new URL(name, bundle))).length;
  return bytes / 1000;
}
