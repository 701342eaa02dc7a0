// Runs the tests in a browser, against a system of their own: node scripts/browser.mjs PATH_TO_HOLDFAST_LOCAL
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { npmRun, withSystem } from "../../typescript/scripts/system.mjs";

const [program] = process.argv.slice(2);
if (!program) throw new Error("which holdfast-local?");

const code = await withSystem(program, "web-chat", ({ url, settings, environment }) =>
  npmRun(fileURLToPath(new URL("..", import.meta.url)), "test:browser", {
    ...environment,
    HOLDFAST_URL: url,
    HOLDFAST_SETTINGS: JSON.stringify(settings),
    // The tests kill gateways of their own, which are beside it.
    HOLDFAST_BINARIES: dirname(resolve(program)),
  }),
);
process.exit(code);
