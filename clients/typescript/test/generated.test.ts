import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { generate } from "../scripts/generate.mjs";

test("the types are those of docs/openapi.json and docs/asyncapi.json; `npm run generate` makes them anew", async () => {
  for (const [name, text] of Object.entries(await generate())) {
    expect(await readFile(new URL(`../src/generated/${name}`, import.meta.url), "utf8"), name).toBe(text);
  }
});
