import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { "@holdfast/client": fileURLToPath(new URL("src/index.ts", import.meta.url)) } },
  test: { include: ["test/integration/**/*.test.ts"], testTimeout: 60_000 },
});
