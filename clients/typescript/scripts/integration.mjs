// Runs the integration tests against a gateway and a worker of their own: node scripts/integration.mjs PATH_TO_HOLDFAST_LOCAL
import { fileURLToPath } from "node:url";
import { npmRun, withSystem } from "./system.mjs";

const [program] = process.argv.slice(2);
if (!program) throw new Error("which holdfast-local?");

const code = await withSystem(program, "client-library", ({ url, settings, environment }) =>
  npmRun(fileURLToPath(new URL("..", import.meta.url)), "test:integration", {
    ...environment,
    HOLDFAST_URL: url,
    HOLDFAST_JWT_SECRET: settings.JWT_SECRET,
  }),
);
process.exit(code);
