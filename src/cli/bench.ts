/** `obd bench`: measures images, devices and the parts they are made of (docs/performance.md). */
import type { Command } from 'commander';
import {
  cacheTimes,
  checkLoad,
  conversionTimes,
  coolImage,
  deviceLoad,
  indexTimes,
  openingTimes,
  RingBench,
  stackLoad,
  warmImage,
  yardstickLoad,
  type Load,
  type Measured,
  type Row,
} from '../bench/index.js';
import { ConfigError } from '../blob/index.js';
import type { HostedImage } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { benchAttach, type BenchAttachFlags } from './bench-attach.js';
import {
  addLoadOptions,
  addReportOptions,
  bestOf,
  loadsOf,
  parseNumber,
  printReport,
  withOpener,
  type LoadFlags,
  type ReportFlags,
} from './bench-options.js';
import { TRANSPORT_CHOICES } from '../service/index.js';
import { parseSize } from './units.js';

const EXAMPLE = `
Examples:
  $ obd bench ring image.json --bs 4k,64k --depth 1,32      # an image, on all of a device but the kernel
  $ obd bench device /dev/sda --pattern sequential --bs 1M --depth 4
  $ obd bench stack image.json --writes 50 --json           # through the general way; the image needs an "upper"
  $ obd bench attach image.json --devices 200               # as root
`;

/** Adds `bench` and its subcommands to the program. */
export function addBenchCommand(program: Command): void {
  const bench = program
    .command('bench')
    .description('Measure images, devices and what they are made of.')
    .addHelpText('after', EXAMPLE);
  const image = 'the image configuration (config.v1.json)';
  const serviceConfig = ['--service-config <file>', 'overlaybd.json, for remote layers'] as const;

  addLoadOptions(bench.command('stack'))
    .description('Read or write an image the general way, as tools do.')
    .argument('<image>', image)
    .option(...serviceConfig)
    .action(benchStack);
  addLoadOptions(bench.command('ring'))
    .description('Read or write an image through the I/O workers and a TCMU ring without a kernel.')
    .argument('<image>', image)
    .option(...serviceConfig)
    .option('--yardstick <file>', 'do the same with a plain file and a loop that is all C')
    .action(benchRing);
  addLoadOptions(bench.command('device'))
    .description('Read or write a block device or a file, with direct I/O.')
    .argument('<path>', 'the device; writing to it destroys what is there')
    .option('--overwrite', 'yes, destroy it; needed for writes')
    .option('--buffered', 'through the page cache, one access after the other')
    .option('--image <file>', 'configuration of its image: read only where that has data')
    .option(...serviceConfig)
    .action(benchDevice);
  addReportOptions(bench.command('open'))
    .description('Open an image and read from it, again and again.')
    .argument('<image>', image)
    .option('--runs <n>', 'how often', '30')
    .option('--cold', 'empty the page cache each time')
    .option(...serviceConfig)
    .action(benchOpen);
  addReportOptions(bench.command('index'))
    .description('Merge the indexes of layers, and look things up.')
    .option('--layers <n>', 'layers to merge', '16')
    .option('--extents <n>', 'extents of each', '20000')
    .option('--lookup-in <numbers>', 'segments of the indexes that are asked', '100000,1000000')
    .option('--runs <n>', 'the best of so many counts', '15')
    .option('--seed <n>', 'another seed, other places', '1')
    .action(benchIndex);
  addReportOptions(bench.command('cache'))
    .description('Fill the blob cache, hit it, miss it. The source is memory.')
    .argument('[dir]', 'where; everything is removed at the end', '/tmp')
    .option('--size <bytes>', 'of the cached blob', '1G')
    .option('--reads <n>', 'hits', '40000')
    .option('--seed <n>', 'another seed, other places', '1')
    .action(benchCache);
  addReportOptions(bench.command('convert'))
    .description('Make a layer of a tar.')
    .argument('<tar>', 'plain, gzip or zstd')
    .option('--algorithm <name>', 'lz4 or zstd', 'lz4')
    .option('--bs <bytes>', 'compression block', '4k')
    .option('--workdir <dir>', 'where work files go; /dev/shm leaves the disk out of it', '/tmp')
    .option('--runs <n>', 'how often', '3')
    .action(benchConvert);
  addReportOptions(bench.command('attach'))
    .description('Attach an image many times: time, memory of each device, what an idle service costs.')
    .argument('<image>', image)
    .option('--devices <n>', 'how many', '20')
    .option('--idle <seconds>', 'how long the idle service is watched', '5')
    .option('--rest <seconds>', 'how long it is left alone before that', '1')
    .option('--transport <kind>', TRANSPORT_CHOICES.join(', '), 'auto')
    .option('--service-config <file>', 'a running service of this overlaybd.json; default: one of its own')
    .action(async (path: string, flags: BenchAttachFlags) => {
      printReport('attach', path, await benchAttach(path, flags), flags);
    });
}

interface ImageFlags extends LoadFlags {
  readonly serviceConfig?: string;
}

/** Opens an image for the loads, measures each, and closes it. */
async function measureImage(
  path: string,
  flags: ImageFlags,
  measure: (image: HostedImage, load: Load) => Promise<Measured>,
): Promise<Row[]> {
  const loads = checkedLoads(flags);
  return withOpener(flags.serviceConfig, async (opener) => {
    const writes = loads.some((load) => load.writes > 0);
    const image = await opener.open(path, { mode: writes ? 'write' : 'read' });
    try {
      if (writes && image.readOnly)
        throw new ConfigError('OBD_CONFIG_VALUE', `Cannot write to "${path}": the image has no "upper"`, {
          source: path,
        });
      if (flags.cold !== true) await warmImage(image);
      const rows: Row[] = [];
      for (const load of loads) {
        const once = (run: Load): Promise<Measured> => {
          if (run.cold) coolImage(image);
          return measure(image, run);
        };
        rows.push(await bestOf(load, flags, once));
      }
      return rows;
    } finally {
      await image.close();
    }
  });
}

function checkedLoads(flags: LoadFlags): Load[] {
  const loads = loadsOf(flags);
  loads.forEach(checkLoad);
  return loads;
}

async function benchStack(path: string, flags: ImageFlags): Promise<void> {
  const rows = await measureImage(path, flags, ({ blob }, load) => stackLoad(blob, load));
  printReport('stack', path, rows, flags);
}

async function benchRing(path: string, flags: ImageFlags & { readonly yardstick?: string }): Promise<void> {
  const ring = new RingBench(makeLogger('warn'));
  let rows: Row[];
  try {
    rows = await measureImage(path, flags, (image, load) => ring.run(image, load));
  } finally {
    await ring.close();
  }
  const { yardstick } = flags;
  if (yardstick !== undefined)
    for (const load of loadsOf(flags)) {
      const row = await bestOf(load, flags, (run) => yardstickLoad(yardstick, run));
      rows.push({ ...row, name: `all in C: ${row.name}` });
    }
  printReport('ring', path, rows, flags);
}

interface DeviceFlags extends ImageFlags {
  readonly overwrite?: boolean;
  readonly buffered?: boolean;
  readonly image?: string;
}

async function benchDevice(path: string, flags: DeviceFlags): Promise<void> {
  const loads = checkedLoads(flags);
  if (loads.some((load) => load.writes > 0) && flags.overwrite !== true)
    throw new ConfigError('OBD_CONFIG_VALUE', `Writing would destroy what is on "${path}"`, {
      source: path,
      hint: 'Add --overwrite if that is meant',
    });
  const measure = async (map?: object): Promise<Row[]> => {
    const rows: Row[] = [];
    const options = { buffered: flags.buffered === true, ...(map === undefined ? {} : { map }) };
    for (const load of loads) rows.push(await bestOf(load, flags, (run) => deviceLoad(path, run, options)));
    return rows;
  };
  const { image } = flags;
  const rows =
    image === undefined
      ? await measure()
      : await withOpener(flags.serviceConfig, async (opener) => {
          const opened = await opener.open(image, { mode: 'read' });
          try {
            if (flags.cold === true) coolImage(opened);
            return await measure(opened.blob);
          } finally {
            await opened.close();
          }
        });
  printReport('device', path, rows, flags);
}

interface OpenFlags extends ReportFlags {
  readonly runs: string;
  readonly cold?: boolean;
  readonly serviceConfig?: string;
}

async function benchOpen(path: string, flags: OpenFlags): Promise<void> {
  const runs = parseNumber(flags.runs, '--runs', 1, 100_000);
  const rows = await withOpener(flags.serviceConfig, (opener) =>
    openingTimes(
      () => opener.open(path, { mode: 'read' }),
      runs,
      async () => {
        if (flags.cold !== true) return;
        const image = await opener.open(path, { mode: 'read' });
        coolImage(image);
        await image.close();
      },
    ),
  );
  printReport('open', path, rows, flags);
}

interface IndexFlags extends ReportFlags {
  readonly layers: string;
  readonly extents: string;
  readonly lookupIn: string;
  readonly runs: string;
  readonly seed: string;
}

function benchIndex(flags: IndexFlags): void {
  const rows = indexTimes({
    layers: parseNumber(flags.layers, '--layers', 1, 255),
    extents: parseNumber(flags.extents, '--extents', 1, 1_000_000),
    lookupIn: flags.lookupIn.split(',').map((text) => parseNumber(text, '--lookup-in', 1, 10_000_000)),
    runs: parseNumber(flags.runs, '--runs', 1, 10_000),
    seed: parseNumber(flags.seed, '--seed', 0, 2 ** 32 - 1),
  });
  printReport('index', `${flags.layers} x ${flags.extents} random extents`, rows, flags);
}

interface CacheFlags extends ReportFlags {
  readonly size: string;
  readonly reads: string;
  readonly seed: string;
}

const CACHE_UNIT = 256 << 10;

async function benchCache(dir: string, flags: CacheFlags): Promise<void> {
  const size = parseSize(flags.size, '--size');
  if (size < CACHE_UNIT || size % CACHE_UNIT !== 0)
    throw new ConfigError('OBD_CONFIG_VALUE', `--size is "${flags.size}", expected whole units of 256 KiB`);
  const reads = parseNumber(flags.reads, '--reads', 32, 100_000_000);
  const seed = parseNumber(flags.seed, '--seed', 0, 2 ** 32 - 1);
  printReport('cache', dir, await cacheTimes({ dir, size, unitSize: CACHE_UNIT, reads, seed }), flags);
}

interface ConvertFlags extends ReportFlags {
  readonly algorithm: string;
  readonly bs: string;
  readonly workdir: string;
  readonly runs: string;
}

async function benchConvert(tar: string, flags: ConvertFlags): Promise<void> {
  if (flags.algorithm !== 'lz4' && flags.algorithm !== 'zstd')
    throw new ConfigError('OBD_CONFIG_VALUE', `--algorithm is "${flags.algorithm}", expected lz4 or zstd`);
  const blockSize = parseSize(flags.bs, '--bs');
  if (![4096, 8192, 16384, 32768, 65536].includes(blockSize))
    throw new ConfigError('OBD_CONFIG_VALUE', `--bs is "${flags.bs}", expected 4k, 8k, 16k, 32k or 64k`);
  const rows = await conversionTimes(tar, {
    zstd: flags.algorithm === 'zstd',
    blockSize,
    workDir: flags.workdir,
    runs: parseNumber(flags.runs, '--runs', 1, 1000),
  });
  printReport('convert', tar, rows, flags);
}
