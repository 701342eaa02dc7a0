// Makes dist/esm and dist/cjs, each with its declarations, and loads both.
import { rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
await rm(`${root}/dist`, { recursive: true, force: true });
const common = {
  target: ts.ScriptTarget.ES2020,
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
  types: [],
  rootDir: `${root}/src`,
  strict: true,
  exactOptionalPropertyTypes: true,
  declaration: true,
  stripInternal: true,
  noEmitOnError: true,
  skipLibCheck: true,
};
const kinds = {
  esm: { type: "module", module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler },
  cjs: { type: "commonjs", module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Node10 },
};
for (const [kind, { type, ...options }] of Object.entries(kinds)) {
  const program = ts.createProgram([`${root}/src/index.ts`], { ...common, ...options, outDir: `${root}/dist/${kind}` });
  const { diagnostics } = program.emit();
  const all = [...ts.getPreEmitDiagnostics(program), ...diagnostics];
  if (all.length > 0) {
    const host = { getCanonicalFileName: (name) => name, getCurrentDirectory: () => root, getNewLine: () => "\n" };
    process.stderr.write(ts.formatDiagnostics(all, host));
    process.exit(1);
  }
  await writeFile(`${root}/dist/${kind}/package.json`, `${JSON.stringify({ type, sideEffects: false })}\n`);
}

const loaded = [await import("@holdfast/client"), createRequire(import.meta.url)("@holdfast/client")];
for (const { connect, HoldfastError } of loaded) {
  if (typeof connect !== "function" || typeof HoldfastError !== "function")
    throw new Error("dist does not export what it should");
}
