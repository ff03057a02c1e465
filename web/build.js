// Bundles the sources: /client.js for the service (and what stands beside it), dist/ for npm.
import { execFileSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { build } from "esbuild";

const assets = "../service/rowcast/assets";
const shared = { bundle: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "warning" };

rmSync(assets, { recursive: true, force: true });
await build({ ...shared, entryPoints: ["client/src/client.ts"], outfile: `${assets}/client.js`, minify: true });

const client = { // the one that the service serves; the console's files are in a folder beside it
  name: "client",
  setup: ({ onResolve }) => onResolve({ filter: /^@rowcast\/client$/ }, () => ({ path: "../client.js", external: true })),
};
await build({ // the console: names with hashes, which never change
  ...shared,
  entryPoints: ["console/src/main.tsx", "console/src/main.css"],
  outdir: `${assets}/console`,
  plugins: [client],
  entryNames: "[name]-[hash]",
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: true,
});
copyFileSync("node_modules/preact/LICENSE", `${assets}/console/preact.LICENSE.txt`);

if (process.argv.includes("--package")) { // what `npm pack` packs
  rmSync("client/dist", { recursive: true, force: true });
  await build({ ...shared, entryPoints: ["client/src/client.ts"], outfile: "client/dist/client.js" });
  execFileSync("node_modules/.bin/tsc", ["--project", "client", "--emitDeclarationOnly", "--outDir", "client/dist"], { stdio: "inherit" });
}
