// Builds `dist`: types from openapi.json (compared with what is committed), a check of all types, the bundle, its compressed
// forms, and the budget of what a first visit loads.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
const types = join(here, "src/api/schema.d.ts");
const KIB = 1024;
/** Compressed script of a first visit. */
const BUDGET = 200 * KIB;

const run = (tool, ...args) =>
  execFileSync(join(here, "node_modules/.bin", tool), args, { cwd: here, stdio: ["ignore", "pipe", "inherit"] }).toString();

const current = run("openapi-typescript", "../openapi.json");
if (!existsSync(types) || readFileSync(types, "utf8") !== current) {
  if (!process.argv.includes("--write-types")) {
    console.error("ui/src/api/schema.d.ts is not what openapi.json says: run `npm run types` in ui/ and commit it.");
    process.exit(1);
  }
  writeFileSync(types, current);
}
if (process.argv.includes("--only-types")) process.exit(0);

run("tsc", "--noEmit");
for (const name of readdirSync(dist)) if (name !== ".gitignore") rmSync(join(dist, name), { recursive: true });
run("vite", "build", "--logLevel", "warn");

const manifestPath = join(dist, ".vite/manifest.json");
const manifest = JSON.parse(readFileSync(manifestPath, "utf8"));
rmSync(dirname(manifestPath), { recursive: true });

const sizes = new Map();
const files = ["theme.js", "favicon.svg", ...readdirSync(join(dist, "assets")).map((name) => `assets/${name}`)];
for (const name of files) {
  const path = join(dist, name);
  const plain = readFileSync(path);
  const gzip = gzipSync(plain, { level: 9 });
  const brotli = brotliCompressSync(plain, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length },
  });
  writeFileSync(`${path}.gz`, gzip);
  writeFileSync(`${path}.br`, brotli);
  sizes.set(name, { plain: statSync(path).size, gzip: gzip.length, brotli: brotli.length });
}

/** What the page loads before anything is clicked: the entry and what it imports at once. */
const first = new Set(["theme.js"]);
const follow = (key) => {
  const chunk = manifest[key];
  if (first.has(chunk.file)) return;
  first.add(chunk.file);
  chunk.imports?.forEach(follow);
};
Object.keys(manifest).filter((key) => manifest[key].isEntry).forEach(follow);

const kib = (bytes) => `${(bytes / KIB).toFixed(1)} KiB`.padStart(10);
for (const [name, size] of sizes) {
  if (/\.(js|css)$/.test(name)) {
    console.log(`${kib(size.gzip)} gzip ${kib(size.brotli)} brotli  ${first.has(name) ? "first" : "later"}  ${name}`);
  }
}
const loaded = [...first].reduce((sum, name) => sum + sizes.get(name).gzip, 0);
console.log(`${kib(loaded)} gzip of script at first, of at most${kib(BUDGET)}`);
if (loaded > BUDGET) {
  console.error("A first visit loads more script than the budget allows.");
  process.exit(1);
}
