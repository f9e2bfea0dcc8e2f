/**
 * Fails if a room imports what it may not, or reaches past another room's index.ts. The table below is the
 * architecture; docs/architecture.md draws it. `check-rooms [DIR]` looks below DIR instead of src.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';

const formats = ['tar', 'gzip', 'zfile', 'lsmt'];
const MAY_IMPORT: Readonly<Record<string, readonly string[] | 'anything'>> = {
  blob: [],
  log: ['blob'],
  metrics: ['blob', 'log'],
  native: ['blob'],
  tar: ['blob'],
  gzip: ['blob', 'native'],
  zfile: ['blob', 'native'],
  lsmt: ['blob', 'native'],
  cache: ['blob', 'log', 'native'],
  registryblob: ['blob', 'log'],
  registryserver: ['blob', 'log'],
  oci: ['blob', 'log', 'native', 'tar', 'registryblob'],
  ocilayer: ['blob', 'native', 'tar'],
  containerd: ['blob', 'log', 'registryblob', 'oci'],
  blockdev: ['blob', 'log', 'native'],
  image: ['blob', 'log', 'native', 'cache', 'registryblob', ...formats],
  convert: ['blob', 'log', 'native', 'registryblob', 'oci', 'ocilayer', ...formats],
  prefetch: ['blob', 'log', 'native', 'tar', 'image', 'verify'],
  service: ['blob', 'log', 'metrics', 'native', 'image', 'prefetch', 'blockdev'],
  snapshotter: ['blob', 'log', 'metrics', 'image'],
  install: ['blob'],
  doctor: ['blob', 'log', 'image', 'registryblob', 'service', 'snapshotter', 'containerd', 'install'],
  tools: ['blob', 'log', 'native', 'image', 'ocilayer', ...formats],
  verify: ['blob', 'native', 'tar', 'tools'],
  report: ['blob', 'image', 'lsmt', 'service', 'verify'],
  bench: ['blob', 'log', 'native', 'cache', 'image', 'blockdev', 'ocilayer', 'convert', ...formats],
  cli: 'anything',
};

const src = resolve(process.argv[2] ?? 'src');
const problems: string[] = [];
for (const file of readdirSync(src, { recursive: true, encoding: 'utf8' })) {
  if (!file.endsWith('.ts')) continue;
  const room = file.split(sep)[0] ?? '';
  const allowed = MAY_IMPORT[room];
  if (allowed === undefined) {
    problems.push(`src/${file}: no such room in scripts/check-rooms.ts`);
    continue;
  }
  const text = readFileSync(join(src, file), 'utf8');
  for (const match of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
    const target = relative(src, resolve(src, dirname(file), match[1] ?? ''));
    const targetRoom = target.split(sep)[0] ?? '';
    if (targetRoom === room) continue;
    if (target.startsWith('..')) problems.push(`src/${file}: imports ${target}, outside src/`);
    else if (allowed !== 'anything' && !allowed.includes(targetRoom))
      problems.push(`src/${file}: room "${room}" may not import "${targetRoom}"`);
    else if (target !== join(targetRoom, 'index.js'))
      problems.push(`src/${file}: imports ${target}; a room is entered through its index.ts`);
  }
}
if (problems.length > 0) {
  process.stderr.write(problems.join('\n') + '\n');
  process.exitCode = 1;
}
