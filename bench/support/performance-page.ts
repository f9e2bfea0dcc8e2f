/** docs/performance.md and its plots, from what is in bench/results. Nothing in them is typed by hand. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { formatNumber, type Report, type Row } from '../../src/bench/index.js';
import { packageRoot } from '../../src/native/index.js';
import { barChart, type Bar } from './plot.js';
import {
  COLD_READ,
  GZIP_READ,
  OTHERS,
  READS,
  TCMU_GOALS,
  TCMU_REFERENCE,
  type Reference,
} from './reference.js';
import { GARBAGE, numberOf, readResults, rowOf } from './results.js';

const DOCS = join(packageRoot, 'docs');
const PLOTS = join(DOCS, 'performance');

type Cells = readonly (string | number | undefined)[];

/** Writes the page and the plots. */
export async function writePerformancePage(): Promise<void> {
  await mkdir(PLOTS, { recursive: true });
  const parts = [
    HEAD,
    ...(await Promise.all([
      reads(),
      tail(),
      indexes(),
      devices(),
      fuse(),
      tcmu(),
      coldStart(),
      conversion(),
    ])),
  ];
  const text = parts.filter((part) => part !== '').join('\n\n');
  await writeFile(
    join(DOCS, 'performance.md'),
    `${text}
`,
  );
}

const HEAD = `# Performance

<!-- Written by \`bench/run\` from bench/results/*.json; do not edit. -->

What a device of ours does, beside the C++ reference (overlaybd) and beside what every Debian has. \`obd bench\` measures one thing;
\`bench/run\` measures all of this on your machine and writes this page. A number counts beside another one of the same run: machines
differ, and where the load average was above the number of processors others were working too.`;

function table(titles: readonly string[], rows: readonly Cells[]): string {
  const cell = (value: string | number | undefined): string =>
    value === undefined ? '–' : typeof value === 'number' ? formatNumber(value) : value;
  const line = (cells: Cells): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(titles), line(titles.map((_, i) => (i === 0 ? '---' : '--:'))), ...rows.map(line)].join('\n');
}

/** With what the numbers above came about. */
function madeWith(reports: readonly Report[]): string {
  const [report] = reports;
  if (report === undefined) return '';
  const { date, commit, version, node, machine } = report;
  const loads = reports.map(({ loadAverage }) => loadAverage);
  const [least, most] = [Math.min(...loads), Math.max(...loads)];
  const load = least === most ? String(least) : `${least} to ${most}`;
  return `_${date.slice(0, 10)}, ${commit ?? version}, Node.js ${node}, ${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}; load average ${load}._`;
}

function section(title: string, ...parts: readonly string[]): string {
  return [`## ${title}`, ...parts].join('\n\n');
}

async function plot(name: string, title: string, bars: readonly Bar[], line?: number): Promise<string> {
  await writeFile(join(PLOTS, `${name}.svg`), barChart(title, bars, line));
  return `![${title}](performance/${name}.svg)`;
}

const times = (value: number): string => `${formatNumber(value)}×`;

async function reads(): Promise<string> {
  const warm = readResults('ring');
  const cold = readResults('cold');
  const gzip = readResults('gzip');
  if (warm.length === 0) return '';
  const all = READS.map((reference) => ({ reference, row: rowOf(warm, reference.subject, reference.row) }));
  all.push({ reference: COLD_READ, row: rowOf(cold, COLD_READ.subject, COLD_READ.row) });
  all.push({ reference: GZIP_READ, row: rowOf(gzip, GZIP_READ.subject, GZIP_READ.row) });
  const rows: Cells[] = [];
  const bars: Bar[] = [];
  for (const { reference, row } of all) {
    const value = numberOf(row, reference.key);
    if (value === undefined) continue;
    const multiple = value / reference.value;
    rows.push([
      reference.name,
      figure(reference, reference.value),
      `**${figure(reference, value)}**`,
      times(multiple),
      reference.goal > 0 ? times(reference.goal) : '–',
      numberOf(row, 'p50Us'),
      numberOf(row, 'p99Us'),
      numberOf(row, 'p999Us'),
      numberOf(row, 'cpu'),
      ((numberOf(row, 'cpu') ?? NaN) * 1e6) / (numberOf(row, 'iops') ?? NaN),
    ]);
    bars.push({
      label: reference.name,
      value: multiple,
      text: times(multiple),
      goal: reference.goal > 0 ? reference.goal : undefined,
    });
  }
  return section(
    'Reads of local data',
    `The image is an empty ext4 of 64 GiB and one layer of about 580 MB with a Debian root, in four ways of storing it
(\`bench/images\`); places that hold data are read. The reference's figures are those of its library called directly on one core, ours go
through a whole TCMU ring: a thread plays the kernel, one I/O worker answers (\`obd bench ring\`). That thread
looks for answers for 30 µs before it sleeps, while that finds some, so that the worker is measured and not how long the machine takes to
wake a program. CPU is that of the process without
the thread that plays the kernel: “CPU µs each” is what a read costs, and hardly depends on who else works on the machine. Local reads stay within 8 MiB for 4096 reads. The gzip layer is a TurboOCI
one: a Debian root as a .tar.gz with an index, all of it read once before.`,
    await plot('reads', "Reads, as multiples of the reference's library (tick: our goal)", bars, 1),
    table(
      ['read', 'reference', 'ours', '', 'goal', 'P50 µs', 'P99 µs', 'P99.9 µs', 'CPU', 'CPU µs each'],
      rows,
    ),
    madeWith([...warm, ...cold, ...gzip]),
  );
}

function figure({ key }: Reference, value: number): string {
  return key === 'iops' ? `${formatNumber(value / 1000)}k` : `${formatNumber(value / 1000)} GB/s`;
}

async function tail(): Promise<string> {
  const reports = readResults('tail');
  const [report] = reports;
  if (report === undefined) return '';
  const name = 'random read 4 KiB, QD1';
  const [ours, inC] = [rowOf(reports, 'raw', name), rowOf(reports, 'raw', `all in C: ${name}`)];
  const line = (title: string, row: Row | undefined): Cells => [
    title,
    ...['iops', 'p50Us', 'p99Us', 'p999Us', 'cpu'].map((key) => numberOf(row, key)),
  ];
  const garbage = report.rows.filter((row) => row.name.startsWith(GARBAGE));
  const [first] = garbage;
  return section(
    'Tail, and garbage',
    'One read at a time of an uncompressed image, from the page cache, beside a loop that is all C on the same ring in the same run (`native/plain_server.c`: one blocking `preadv` after the other).',
    table(['', 'IOPS', 'P50 µs', 'P99 µs', 'P99.9 µs', 'CPU'], [line('ours', ours), line('all in C', inC)]),
    first === undefined ? '' : `Under load, of I/O workers that are warm (\`--trace-gc\`):`,
    first === undefined
      ? ''
      : table(
          ['', 'collections'],
          garbage.map((row) => [row.name, numberOf(row, 'collections')]),
        ),
    madeWith(reports),
  );
}

async function indexes(): Promise<string> {
  const opens = readResults('open');
  const index = readResults('index');
  const attach = readResults('attach');
  if (opens.length === 0 && index.length === 0) return '';
  const merge = index[0]?.rows.find((row) => row.name.startsWith('merge'));
  const lookup = index[0]?.rows.find((row) => row.name.startsWith('look up'));
  const open = rowOf(opens, 'layers-33', 'open');
  const service = rowOf(attach, 'layers-33, nbd', 'open');
  return section(
    'Opening, merging, looking up',
    table(
      ['', 'reference', 'best', 'median'],
      [
        [
          'open an image of 33 layers, in one process, again and again',
          `${OTHERS.openMs} ms`,
          ms(open, 'bestMs'),
          ms(open, 'medianMs'),
        ],
        [
          'the same in a running service, which keeps all of them open',
          `${OTHERS.openMs} ms`,
          ms(service, 'bestMs'),
          ms(service, 'medianMs'),
        ],
        [
          'merge 16 layers of 20,000 random extents',
          `${OTHERS.mergeMs} ms`,
          ms(merge, 'bestMs'),
          ms(merge, 'medianMs'),
        ],
        [
          'look up 4 KiB among 100,000 segments',
          `${OTHERS.lookupsMillion} M/s`,
          `${formatNumber(numberOf(lookup, 'millionPerSecond') ?? 0)} M/s`,
          '–',
        ],
      ],
    ),
    madeWith([...opens, ...index]),
  );
}

function ms(row: Row | undefined, key: string): string {
  const value = numberOf(row, key);
  return value === undefined ? '–' : `${formatNumber(value)} ms`;
}

async function devices(): Promise<string> {
  const reports = readResults('attach');
  if (reports.length === 0) return '';
  const rows = reports.map(({ subject, rows: all }): Cells => {
    const row = (name: string): Row | undefined => all.find((r) => r.name.startsWith(name));
    return [
      subject,
      ms(row('attach'), 'medianMs'),
      ms(row('detach'), 'medianMs'),
      `${formatNumber(numberOf(row('memory of a device'), 'privateKib') ?? 0)} KiB`,
      /with (\d+)/.exec(row('memory of the service')?.name ?? '')?.[1],
      `${formatNumber((numberOf(row('memory of the service'), 'privateKib') ?? 0) / 1024)} MiB`,
      numberOf(row('idle'), 'cpu'),
      numberOf(row('idle'), 'wakeUpsPerSecond'),
    ];
  });
  return section(
    'Many devices',
    'One service, many devices of one image (`obd bench attach`): what each costs in memory that no other process shares, and what the service does while nobody reads (watched for 20 seconds, 150 after the last attach).',
    table(
      [
        'image, transport',
        'attach',
        'detach',
        'memory of each',
        'devices',
        'service',
        'idle CPU',
        'wake-ups /s',
      ],
      rows,
    ),
    madeWith(reports),
  );
}

async function fuse(): Promise<string> {
  const reports = readResults('fuse');
  if (reports.length === 0) return '';
  const loads = [...new Set(reports.flatMap(({ rows }) => rows.map(({ name }) => name)))];
  const rows = reports.map(({ subject, rows: all }): Cells => [
    subject,
    ...loads.map((name) => {
      const row = all.find((r) => r.name === name);
      const [iops, rate] = [numberOf(row, 'iops') ?? 0, numberOf(row, 'mbPerSecond') ?? 0];
      return name.includes('4 KiB')
        ? `${formatNumber(iops / 1000)}k IOPS`
        : `${formatNumber(rate / 1000)} GB/s`;
    }),
  ]);
  return section(
    'FUSE devices',
    'Where the kernel has no TCMU: `/dev/loopN` over FUSE, read with direct I/O (`obd bench device`), beside a loop device of the kernel on a plain file in the page cache.',
    table(['', ...loads], rows),
    madeWith(reports),
  );
}

async function tcmu(): Promise<string> {
  const [report] = readResults('tcmu');
  if (report === undefined) return '';
  const loads = Object.keys(TCMU_GOALS['raw'] ?? {});
  const measured = (disk: string, load: string): number | undefined => {
    const row = report.rows.find(({ name }) => name === `${disk}, ${load}`);
    return numberOf(row, 'iops') ?? numberOf(row, 'mbPerSecond');
  };
  const bars: Bar[] = [];
  const rows: Cells[] = [];
  for (const disk of ['tcmu-runner', ...Object.keys(TCMU_GOALS)]) {
    const cells = loads.map((load) => {
      const [ours, runner] = [measured(disk, load), measured('tcmu-runner', load)];
      if (ours === undefined || runner === undefined) return '–';
      const multiple = ours / runner;
      const figure = load.startsWith('randread')
        ? `${formatNumber(ours / 1000)}k`
        : `${formatNumber(ours / 1000)} GB/s`;
      if (disk === 'tcmu-runner') return figure;
      bars.push({
        label: `${disk}, ${load}`,
        value: multiple,
        text: times(multiple),
        goal: TCMU_GOALS[disk]?.[load],
      });
      return `${figure} (**${times(multiple)}**; goal ${times(TCMU_GOALS[disk]?.[load] ?? 0)})`;
    });
    rows.push([disk, ...cells]);
  }
  for (const [disk, figures] of Object.entries(TCMU_REFERENCE))
    if (disk !== 'tcmu-runner')
      rows.push([
        `reference daemon, ${disk} ¹`,
        ...loads.map((load) => {
          const value = figures[load] ?? 0;
          const text = load.startsWith('randread')
            ? `${formatNumber(value / 1000)}k`
            : `${formatNumber(value / 1000)} GB/s`;
          return `${text} (${times(value / (TCMU_REFERENCE['tcmu-runner']?.[load] ?? 1))})`;
        }),
      ]);
  return section(
    'TCMU devices',
    `\`/dev/sdX\` in ${report.subject}, pinned to one CPU, \`fio --direct=1\`, page cache warm, beside Debian's tcmu-runner with its qcow handler on a raw file in the same boot (\`bench/device/tcmu-vm\`). Ours are the image above, read in the 256 MiB of its disk that hold most data; tcmu-runner's file has that size. In brackets: multiples of tcmu-runner's figure.`,
    await plot('tcmu', 'TCMU devices, as multiples of tcmu-runner (tick: our goal)', bars, 1),
    table(['', ...loads], rows),
    '¹ In another boot on a machine like this one, beside a tcmu-runner of its own.',
    madeWith([report]),
  );
}

async function coldStart(): Promise<string> {
  const [report] = readResults('cold-start');
  if (report === undefined) return '';
  const bars = report.rows.map((row): Bar => {
    const value = numberOf(row, 'firstOutputS') ?? 0;
    return {
      label: row.name,
      value,
      text: `${formatNumber(value)} s`,
      pale: row.name === 'everything first',
    };
  });
  const rows = report.rows.map((row): Cells => [
    row.name,
    ...['mountS', 'firstOutputS', 'endS', 'readMib', 'fetchedMib', 'fetchedPerRead', 'imageMib'].map((key) =>
      numberOf(row, key),
    ),
  ]);
  return section(
    'Cold start',
    `\`${report.subject}\`: the first word of a Python program that looks around in a Debian image, counted from the mount, with an empty cache and no background download (\`bench/cold-start\`). “With a trace”: after \`obd record-trace\` of the same program ([prefetch.md](prefetch.md)), units as in the row above. “Everything first”: the ordinary image, downloaded three layers at a time, unpacked, started.`,
    await plot('cold-start', 'Seconds until the first output', bars),
    table(
      [
        'image',
        'mounted s',
        'first output s',
        'end s',
        'read MiB',
        'fetched MiB',
        'fetched / read',
        'image MiB',
      ],
      rows,
    ),
    madeWith([report]),
  );
}

async function conversion(): Promise<string> {
  const reports = readResults('convert');
  if (reports.length === 0) return '';
  const rows = reports.map(({ subject, rows: all }): Cells => {
    const best = all.toSorted((a, b) => Number(a['totalS']) - Number(b['totalS']))[0];
    return [
      subject,
      ...['totalS', 'mbPerSecond', 'cpuS', 'blobMib', 'peakMemoryMib'].map((key) => numberOf(best, key)),
    ];
  });
  return section(
    'Conversion',
    'From the tar of the Debian root to a finished layer, in memory, the best of three: `obd bench convert`, which takes the digests ' +
      'of tar and blob as well, as a conversion does; and `overlaybd-apply` and `overlaybd-commit`, one after the other, as programs ' +
      '(`bench/convert/tools.ts`). The reference’s apply and commit: 261 MB/s with LZ4, 94 MB/s with zstd, on a machine like this one.',
    table(['', 'seconds', 'MB/s', 'CPU seconds', 'blob MiB', 'peak memory MiB'], rows),
    madeWith(reports),
  );
}
