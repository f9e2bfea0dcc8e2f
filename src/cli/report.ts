import { randomBytes } from 'node:crypto';
import { rename, unlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Command } from 'commander';
import { DeviceError, ioError } from '../blob/index.js';
import { ImageOpener } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { gatherReport, reportPage } from '../report/index.js';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface ReportFlags extends ServiceAccessOptions {
  readonly out?: string;
  readonly json?: boolean;
}

/** Adds `report` to the program. */
export function addReportCommand(program: Command): void {
  addServiceOptions(
    program
      .command('report')
      .description(
        'One HTML page about a device: what was read and fetched, when, of which layers and files.',
      )
      .argument('<device>', 'id or path of a device (obd list)'),
  )
    .option('-o, --out <file>', 'where the page goes, - for standard output (default: DEVICE-report.html)')
    .option('--json', 'print the same data as JSON instead')
    .addHelpText('after', '\nExample:\n  obd report app -o app.html\n')
    .action(reportCommand);
}

async function reportCommand(key: string, flags: ReportFlags): Promise<void> {
  const { client, config } = await serviceAddress(flags);
  const activity = await client.activity(key);
  const { device } = activity;
  if (device.state === 'opening' || device.state === 'failed')
    throw new DeviceError(
      'OBD_DEVICE_BUSY',
      `Cannot report on "${device.id}": nothing was read yet, it is ${device.state}`,
      {
        hint: device.reason?.message ?? 'Try again when "obd list" calls it ready',
      },
    );
  const { version } = await client.info();
  const opener = new ImageOpener(config, makeLogger('error'));
  try {
    const { report, stretches } = await interruptible((signal) =>
      gatherReport(activity, { version, opener, signal }),
    );
    const text = flags.json === true ? `${JSON.stringify(report)}\n` : reportPage(report, stretches);
    const out = flags.out ?? (flags.json === true ? '-' : `${device.id}-report.html`);
    if (out === '-') {
      process.stdout.write(text);
      return;
    }
    await writeWhole(out, text);
    process.stderr.write(
      `${out}: ${formatSize(report.totals.readBytes)} read, ${formatSize(report.totals.fetchedBytes)} fetched\n`,
    );
  } finally {
    await opener.close();
  }
}

/** The old file or the new one, never a part. */
async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}`);
  try {
    await writeFile(temporary, text, { flag: 'wx', mode: 0o644 });
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw ioError(error, `write "${path}"`, path);
  }
}
