import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/browser/*.test.ts"],
    testTimeout: 240_000,
    hookTimeout: 60_000,
    // One browser, and gateways that are killed: one file after the other.
    fileParallelism: false,
  },
});
