// The programs are compiled TypeScript; this only finds them.
import { existsSync } from 'node:fs';

/** Runs `main` of a module of src/cli, with what follows on the command line and whatever else it takes. */
export async function launch(name, module, ...more) {
  const program = new URL(`../dist/src/cli/${module}`, import.meta.url);
  if (!existsSync(program)) {
    process.stderr.write(`Error: ${name} is not built. Run "npm ci && npm run build" in the checkout.\n`);
    process.exit(1);
  }
  const { main } = await import(program);
  await main(process.argv.slice(2), ...more);
}
