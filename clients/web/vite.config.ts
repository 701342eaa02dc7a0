import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  base: "/web/",
  // As a gateway of the development profile says it.
  plugins: [
    {
      name: "sign-in by name",
      apply: "serve",
      transformIndexHtml: (html) =>
        html.replace('"holdfast-sign-in" content="token"', '"holdfast-sign-in" content="name"'),
    },
  ],
  resolve: {
    alias: {
      "@holdfast/client": at("../typescript/src/index.ts"),
      // The library's own folder need not have its packages installed.
      "socket.io-client": at("node_modules/socket.io-client"),
    },
  },
  esbuild: { jsx: "automatic" },
  build: {
    // Committed, and part of the gateway's binary: names that stay the same.
    outDir: at("../../crates/gateway/web"),
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    // What the licences of its parts ask for: it goes where the bundle goes.
    license: { fileName: "licences.md" },
    rollupOptions: {
      input: { chat: at("index.html"), sw: at("src/sw.ts") },
      // "use client" is for servers, of which there is none.
      onwarn: (warning, report) =>
        warning.code === "MODULE_LEVEL_DIRECTIVE" || warning.code === "INVALID_ANNOTATION" || report(warning),
      output: { entryFileNames: "[name].js", assetFileNames: "chat[extname]" },
    },
  },
  // `npm run dev` beside scripts/run.
  server: { proxy: { "/api": "http://127.0.0.1:3000", "/socket.io": { target: "http://127.0.0.1:3000", ws: true } } },
});
