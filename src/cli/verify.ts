/** `obd verify`: every checksum of a layer or an image. */
import { tmpdir } from 'node:os';
import { Option, type Command } from 'commander';
import { ConfigError, type ReadableBlob } from '../blob/index.js';
import { openWritableLayer } from '../lsmt/index.js';
import { findArtifacts, isImageName, type Artifacts, type LayerArtifact } from './artifacts.js';
import { addContainerdOptions, containerdImages, type ContainerdOptions } from './containerd-options.js';
import { DIFFERENCE_KINDS, type DifferenceKind } from '../verify/index.js';
import { faultOf } from './layer-report.js';
import { differencesJson, printDifferences } from './print-differences.js';
import { byteProgress } from './progress.js';
import { interruptible } from './stop-signal.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';
import { formatDuration, formatSize } from './units.js';
import { verifyLayer, type VerifyFault, type VerifyReport } from './verify-layer.js';

/** A layer's result among the others of its image. */
export interface LayerResult extends VerifyReport {
  readonly layer: number | 'upper';
}

interface VerifyFlags extends RegistryOptions, ContainerdOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly digest?: string;
  readonly platform?: string;
  readonly against?: string;
  readonly ignore?: ReadonlySet<DifferenceKind>;
  readonly workdir: string;
}

/** Faults listed for a person, per layer; `--json` has more. */
const LISTED = 50;

/** Adds `verify` to the program. */
export function addVerifyCommand(program: Command): void {
  const command = program
    .command('verify')
    .description('Check every checksum and structure of a layer file, an image configuration or an image.')
    .argument('<what>', 'a file, or an image: docker://, oci:, oci-archive:, docker-archive:, containerd:')
    .option('--digest <digest>', 'what the file must be; images and blob stores say so themselves')
    .addOption(
      new Option(
        '--against <source>',
        'compare with the image that it was made from, entry by entry',
      ).conflicts('digest'),
    )
    .addOption(
      new Option('--ignore <kinds>', `differences not to tell of: ${DIFFERENCE_KINDS.join(', ')}`).argParser(
        ignoredKinds,
      ),
    )
    .option('--workdir <dir>', 'where work files of --against go', process.env['TMPDIR'] ?? tmpdir())
    .option('--json', 'print JSON')
    .option('--quiet', 'no progress')
    .option(
      '--platform <os/arch>',
      "which image of an index (default: Linux on this machine's architecture)",
    );
  addContainerdOptions(addRegistryOptions(command)).addHelpText('after', EXAMPLE).action(verify);
}

const EXAMPLE = `
Example: is what was converted what the layers say?
  $ obd verify --against docker://debian:12 oci:./out:debian_obd
`;

function ignoredKinds(text: string): ReadonlySet<DifferenceKind> {
  const kinds = text.split(',').map((word) => {
    const kind = DIFFERENCE_KINDS.find((each) => each === word.trim());
    if (kind === undefined)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot ignore "${word}": expected some of ${DIFFERENCE_KINDS.join(', ')}`,
      );
    return kind;
  });
  return new Set(kinds);
}

async function compare(target: string, source: string, flags: VerifyFlags): Promise<void> {
  const names = [source, target].filter(isImageName);
  if (!isImageName(source))
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot compare with "${source}": expected an image`, {
      hint: 'docker://HOST/REPOSITORY:TAG, oci:DIRECTORY:TAG, oci-archive:FILE, docker-archive:FILE or containerd:NAME',
    });
  // Only this needs the file system's reader.
  const { verifyAgainst } = await import('./verify-against.js');
  const client = openRegistryClient(flags, names);
  const progress = byteProgress('compare', flags.quiet === true || flags.json === true);
  const started = Date.now();
  try {
    const result = await interruptible((signal) =>
      verifyAgainst({
        client,
        openers: containerdImages(flags),
        source,
        target,
        platform: flags.platform,
        workDir: flags.workdir,
        ignore: flags.ignore ?? new Set(),
        progress,
        signal,
      }),
    );
    progress.stop();
    const milliseconds = Date.now() - started;
    process.stdout.write(
      flags.json === true
        ? differencesJson(source, target, result, milliseconds)
        : printDifferences(target, result, milliseconds),
    );
    if (result.count > 0) process.exitCode = 3;
  } finally {
    progress.stop();
    await client.close();
  }
}

async function verify(name: string, flags: VerifyFlags): Promise<void> {
  if (flags.against !== undefined) return compare(name, flags.against, flags);
  const client = openRegistryClient(flags, isImageName(name) ? [name] : []);
  const started = Date.now();
  try {
    const artifacts = await findArtifacts(name, client, flags.platform, containerdImages(flags));
    const results = await verifyArtifacts(artifacts, flags);
    const faults = results.reduce((sum, result) => sum + result.faults.length + result.moreFaults, 0);
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify({ name: artifacts.name, ok: faults === 0, layers: results }, undefined, 2)}\n`
        : results.map(printResult).join('') + summary(artifacts, results, faults, Date.now() - started),
    );
    if (faults > 0) process.exitCode = 3;
  } finally {
    await client.close();
  }
}

async function verifyArtifacts(artifacts: Artifacts, flags: VerifyFlags): Promise<LayerResult[]> {
  const progress = byteProgress('verify', flags.quiet === true || flags.json === true);
  const total = artifacts.layers.reduce((sum, layer) => sum + (layer.size ?? 0), 0);
  const results: LayerResult[] = [];
  let done = 0;
  try {
    for (const [number, artifact] of artifacts.layers.entries()) {
      const result = await verifyArtifact(artifact, flags.digest, (inLayer, size) => {
        progress.update(done + inLayer, Math.max(total, done + size));
      });
      done += result.storedSize;
      results.push({ layer: number, ...result });
    }
    if (artifacts.upper !== undefined) results.push(await verifyUpper(artifacts.upper));
  } finally {
    progress.stop();
  }
  return results;
}

async function verifyArtifact(
  artifact: LayerArtifact,
  givenDigest: string | undefined,
  onProgress: (done: number, size: number) => void,
): Promise<VerifyReport> {
  let stored: ReadableBlob;
  try {
    stored = await artifact.open();
  } catch (error) {
    return unreadable(artifact.name, error);
  }
  const digest = givenDigest ?? artifact.digest;
  return verifyLayer(stored, {
    ...(digest === undefined ? {} : { digest }),
    ...(artifact.size === undefined ? {} : { size: artifact.size }),
    opaque: artifact.kind !== 'overlaybd',
    openTarget: artifact.openTarget?.bind(artifact),
    onProgress: (done) => {
      onProgress(done, stored.size);
    },
  });
}

function unreadable(name: string, error: unknown): VerifyReport {
  return { name, storedSize: 0, ok: false, faults: [faultOf(error)], moreFaults: 0, warnings: [], blocks: 0 };
}

async function verifyUpper(paths: { data: string; index: string }): Promise<LayerResult> {
  try {
    const layer = await openWritableLayer(paths, { mode: 'read', strict: true });
    const segments = layer.map.length;
    await layer.close();
    const warnings = ['writable: no checksum protects the data'];
    return {
      layer: 'upper',
      name: paths.data,
      storedSize: 0,
      ok: true,
      faults: [],
      moreFaults: 0,
      warnings,
      blocks: 0,
      segments,
    };
  } catch (error) {
    return { layer: 'upper', ...unreadable(paths.data, error) };
  }
}

function printResult(result: LayerResult): string {
  const what = [
    result.blocks > 0 ? `${result.blocks} blocks` : '',
    result.segments === undefined ? '' : `${result.segments} segments`,
    result.digest === undefined ? '' : `digest ${result.digest}`,
  ].filter((part) => part !== '');
  const lines = [
    `${result.ok ? 'ok ' : 'BAD'}  layer ${result.layer}  ${result.name}  ${formatSize(result.storedSize)}${what.length > 0 ? `  (${what.join(', ')})` : ''}`,
    ...result.warnings.map((warning) => `     note: ${warning}`),
    ...result.faults.slice(0, LISTED).map(printFault),
  ];
  const unlisted = Math.max(0, result.faults.length - LISTED) + result.moreFaults;
  if (unlisted > 0) lines.push(`     and ${unlisted} more faults`);
  return lines.join('\n') + '\n';
}

function printFault(fault: VerifyFault): string {
  const lost =
    fault.lostSectors === undefined || fault.lostSectors.length === 0
      ? ''
      : `; lost sectors ${fault.lostSectors.map(([first, count]) => `${first}+${count}`).join(', ')}`;
  return `     ${fault.message}${lost} [${fault.code}]`;
}

function summary(artifacts: Artifacts, results: readonly LayerResult[], faults: number, ms: number): string {
  const size = formatSize(results.reduce((sum, result) => sum + result.storedSize, 0));
  const bad = results.filter((result) => !result.ok).length;
  const verdict =
    faults === 0
      ? `all right: ${results.length} ${results.length === 1 ? 'layer' : 'layers'}`
      : `${faults} ${faults === 1 ? 'fault' : 'faults'} in ${bad} of ${results.length} ${results.length === 1 ? 'layer' : 'layers'}`;
  return `${artifacts.name}: ${verdict}, ${size} in ${formatDuration(ms)}\n`;
}
