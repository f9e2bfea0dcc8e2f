// The programs are compiled TypeScript; this only finds them.
import { existsSync } from 'node:fs';

/** Runs `main` of a module of src/cli, with what follows on the command line and whatever else it takes. */
export async function launch(name, module, ...more) {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    process.stderr.write(
      `Error: ${name} needs Node.js 20.19 or later, and this is ${process.version} (${process.execPath}).\n`,
    );
    process.exit(1);
  }
  const program = new URL(`../dist/src/cli/${module}`, import.meta.url);
  if (!existsSync(program)) {
    process.stderr.write(`Error: ${name} is not built. Run "npm ci && npm run build" in the checkout.\n`);
    process.exit(1);
  }
  const { main } = await import(program);
  await main(process.argv.slice(2), ...more);
}
