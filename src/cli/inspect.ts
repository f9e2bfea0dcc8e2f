/** `obd inspect`: what a layer, a configuration or an image is made of. */
import type { Command } from 'commander';
import { OverlaybdError, type ReadableBlob } from '../blob/index.js';
import {
  LayerStack,
  openWritableLayer,
  segmentLength,
  segmentMoffset,
  segmentStart,
  segmentTag,
  isZeroed,
  type SealedLayer,
} from '../lsmt/index.js';
import { findArtifacts, isImageName, type Artifacts } from './artifacts.js';
import { addContainerdOptions, containerdImages, type ContainerdOptions } from './containerd-options.js';
import { printInspection } from './inspect-print.js';
import {
  faultOf,
  inspectLayer,
  mappingReport,
  type FaultReport,
  type LayerReport,
  type MappingReport,
} from './layer-report.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';

/** A layer of an inspected image. */
export interface InspectedArtifact extends LayerReport {
  readonly number: number;
  readonly kind: string;
  readonly digest?: string;
  readonly mediaType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** A writable layer. */
export interface UpperReport {
  readonly data: string;
  readonly index?: string;
  readonly kind?: 'append' | 'sparse';
  readonly virtualSize?: number;
  readonly uuid?: string | null;
  readonly parentUuid?: string | null;
  readonly mapping?: MappingReport;
  /** What is wrong with its log, if something is. */
  readonly damage?: string;
  readonly fault?: FaultReport;
}

/** A run of the merged mapping: [first sector, sectors, layer from the bottom, moffset or "zero"]. */
export type MappingRun = readonly [number, number, number, number | 'zero'];

/** What `obd inspect --json` prints. */
export interface Inspection {
  readonly name: string;
  readonly kind: Artifacts['kind'];
  readonly manifest?: { readonly digest: string; readonly mediaType: string; readonly size: number };
  readonly layers: readonly InspectedArtifact[];
  readonly upper?: UpperReport;
  /** All read-only layers merged; absent if one could not be opened. */
  readonly stack?: {
    readonly virtualSize: number;
    readonly mapping: MappingReport;
    readonly map?: readonly MappingRun[];
  };
}

interface InspectFlags extends RegistryOptions, ContainerdOptions {
  readonly json?: boolean;
  readonly index?: boolean;
  readonly mapping?: boolean;
  readonly logIndex?: string;
  readonly platform?: string;
}

/** Adds `inspect` to the program. */
export function addInspectCommand(program: Command): void {
  const command = program
    .command('inspect')
    .description('Show what a layer file, an image configuration or an image is made of.')
    .argument('<what>', 'a file, or an image: docker://, oci:, oci-archive:, docker-archive:, containerd:')
    .option('--json', 'print JSON')
    .option('--index', "print every layer's index, as it is stored")
    .option('--mapping', 'print the mapping of the whole disk: which layer holds which sectors')
    .option('--log-index <file>', 'index file, if WHAT is the data file of an append layer')
    .option(
      '--platform <os/arch>',
      "which image of an index (default: Linux on this machine's architecture)",
    );
  addContainerdOptions(addRegistryOptions(command)).action(inspect);
}

async function inspect(name: string, flags: InspectFlags): Promise<void> {
  const client = openRegistryClient(flags, isImageName(name) ? [name] : []);
  try {
    const artifacts = await findArtifacts(name, client, flags.platform, containerdImages(flags));
    const inspection = await inspectArtifacts(artifacts, flags);
    process.stdout.write(
      flags.json === true ? JSON.stringify(inspection, undefined, 2) + '\n' : printInspection(inspection),
    );
    // What was asked for could be shown only in part.
    if (inspection.layers.some((layer) => layer.fault !== undefined)) process.exitCode = 3;
    if (inspection.upper?.fault !== undefined) process.exitCode = 3;
  } finally {
    await client.close();
  }
}

async function inspectArtifacts(artifacts: Artifacts, flags: InspectFlags): Promise<Inspection> {
  const layers: InspectedArtifact[] = [];
  const open: SealedLayer[] = [];
  let upper = artifacts.upper === undefined ? undefined : await inspectUpper(artifacts.upper);
  try {
    for (const [number, artifact] of artifacts.layers.entries()) {
      const about = {
        number,
        kind: artifact.kind,
        ...(artifact.digest === undefined ? {} : { digest: artifact.digest }),
        ...(artifact.descriptor === undefined ? {} : { mediaType: artifact.descriptor.mediaType }),
        ...(artifact.descriptor?.annotations === undefined
          ? {}
          : { annotations: artifact.descriptor.annotations }),
      };
      if (artifact.kind !== 'overlaybd') {
        layers.push({ ...about, name: artifact.name, storedSize: artifact.size ?? 0 });
        continue;
      }
      let stored: ReadableBlob | undefined;
      let target: ReadableBlob | undefined;
      try {
        stored = await artifact.open();
        let targetFault: FaultReport | undefined;
        try {
          target = await artifact.openTarget?.();
        } catch (error) {
          targetFault = faultOf(error);
        }
        const { report, layer } = await inspectLayer(stored, flags.index === true, target);
        const fault = report.fault ?? targetFault;
        layers.push({ ...about, ...report, ...(fault === undefined ? {} : { fault }) });
        if (layer !== undefined) open.push(layer);
        else await Promise.all([stored.close(), target?.close()]);
        if (report.lsmt?.kind === 'writable data' && artifacts.kind === 'file')
          upper = await inspectUpper({
            data: artifact.name,
            ...(flags.logIndex === undefined ? {} : { index: flags.logIndex }),
          });
      } catch (error) {
        layers.push({ ...about, name: artifact.name, storedSize: 0, fault: faultOf(error) });
        await Promise.allSettled([stored?.close(), target?.close()]);
      }
    }
    const { manifest } = artifacts;
    return {
      name: artifacts.name,
      kind: artifacts.kind,
      ...(manifest === undefined
        ? {}
        : { manifest: { digest: manifest.digest, mediaType: manifest.mediaType, size: manifest.size } }),
      layers,
      ...(upper === undefined ? {} : { upper }),
      ...(open.length > 0 && open.length === layers.filter((layer) => layer.kind === 'overlaybd').length
        ? stackReport(open, flags.mapping === true)
        : {}),
    };
  } finally {
    await Promise.all(open.map((layer) => layer.close()));
  }
}

async function inspectUpper(paths: { data: string; index?: string }): Promise<UpperReport> {
  try {
    const layer = await openWritableLayer(paths, { mode: 'read' });
    try {
      const recovery = 'recovery' in layer ? layer.recovery : undefined;
      return {
        ...paths,
        kind: 'recovery' in layer ? 'append' : 'sparse',
        virtualSize: layer.info.virtualSize,
        uuid: layer.info.uuid,
        parentUuid: layer.info.parentUuid,
        mapping: mappingReport(layer.segments()),
        ...(recovery === undefined ? {} : { damage: recovery.message }),
      };
    } finally {
      await layer.close();
    }
  } catch (error) {
    if (error instanceof TypeError)
      return {
        ...paths,
        fault: { code: 'OBD_CONFIG_VALUE', message: `${error.message} (--log-index FILE)` },
      };
    return { ...paths, fault: faultOf(error) };
  }
}

function stackReport(layers: readonly SealedLayer[], withMap: boolean): Pick<Inspection, 'stack'> {
  try {
    const stack = new LayerStack(layers);
    return {
      stack: {
        virtualSize: stack.size,
        mapping: mappingReport(stack.index.segments()),
        ...(withMap ? { map: mappingRuns(stack) } : {}),
      },
    };
  } catch (error) {
    // A single layer may leave the size to the one below.
    if (error instanceof OverlaybdError) return {};
    throw error;
  }
}

/** The merged mapping in maximal runs. */
function mappingRuns(stack: LayerStack): MappingRun[] {
  const numbers = stack.layers
    .toReversed()
    .flatMap((layer, i) => layer.files.map(() => stack.layers.length - 1 - i));
  const { words, count } = stack.index.segments();
  const runs: [number, number, number, number | 'zero'][] = [];
  for (let i = 0; i < count; i++) {
    const start = segmentStart(words, i);
    const length = segmentLength(words, i);
    const layer = numbers[segmentTag(words, i)] ?? -1;
    const moffset = isZeroed(words, i) ? 'zero' : segmentMoffset(words, i);
    const last = runs.at(-1);
    const continues =
      last?.[2] === layer &&
      last[0] + last[1] === start &&
      (moffset === 'zero' ? last[3] === 'zero' : last[3] !== 'zero' && last[3] + last[1] === moffset);
    if (continues) last[1] += length;
    else runs.push([start, length, layer, moffset]);
  }
  return runs;
}
