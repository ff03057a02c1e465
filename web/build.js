// Bundles the sources: /client.js for the service (and what stands beside it), dist/ for npm.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { build } from "esbuild";

const assets = "../service/rowcast/assets";
const shared = { bundle: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "warning" };

rmSync(assets, { recursive: true, force: true });
await build({ ...shared, entryPoints: ["client/src/client.ts"], outfile: `${assets}/client.js`, minify: true });

if (process.argv.includes("--package")) { // what `npm pack` packs
  rmSync("client/dist", { recursive: true, force: true });
  await build({ ...shared, entryPoints: ["client/src/client.ts"], outfile: "client/dist/client.js" });
  execFileSync("node_modules/.bin/tsc", ["--project", "client", "--emitDeclarationOnly", "--outDir", "client/dist"], { stdio: "inherit" });
}
