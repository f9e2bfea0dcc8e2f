/** `obd compact`: a writable layer gives back the space of what was overwritten. */
import type { Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { loadImageConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { compactFiles } from '../tools/index.js';
import { byteProgress } from './progress.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface CompactFlags {
  readonly config?: string;
  readonly index?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

const EXAMPLE = `
Examples:
  $ obd compact --index writable_index writable_data
  $ obd compact --config image.json        # the "upper" of an image

A layer whose device is in use is compacted by whoever serves it, see "compactionConfig" in docs/configuration.md.
`;

/** Adds `compact` to the program. */
export function addCompactCommand(program: Command): void {
  program
    .command('compact')
    .description('Give back the space of what was overwritten in a writable layer that is not in use.')
    .argument('[data]', 'data file of the layer; not with --config')
    .option('--index <file>', 'index file of the layer')
    .option('--config <file>', 'image configuration whose upper is compacted')
    .option('--json', 'say what was done as JSON')
    .option('--quiet', 'no progress')
    .addHelpText('after', EXAMPLE)
    .action(compact);
}

async function compact(data: string | undefined, flags: CompactFlags): Promise<void> {
  const upper = await upperOf(data, flags);
  const progress = byteProgress('compact', flags.quiet === true || flags.json === true);
  await interruptible(async (signal) => {
    let done = 0;
    try {
      const result = await compactFiles(upper, {
        signal,
        warn: (message) => process.stderr.write(`Warning: ${message}\n`),
        copying: (bytes, atMost) => {
          progress.update(done, atMost);
          done += bytes;
        },
      });
      progress.stop();
      if (flags.json === true) process.stdout.write(`${JSON.stringify(result)}\n`);
      else
        process.stdout.write(
          `${upper.data}: ${formatSize(result.sizeBefore)}, now ${formatSize(result.sizeAfter)}; ` +
            `${result.recordsBefore} records, now ${result.recordsAfter}\n`,
        );
    } finally {
      progress.stop();
    }
  });
}

async function upperOf(
  data: string | undefined,
  flags: CompactFlags,
): Promise<{ readonly data: string; readonly index: string }> {
  if (flags.config !== undefined && data === undefined && flags.index === undefined) {
    const { upper } = await loadImageConfig(flags.config, makeLogger('warn'));
    if (upper.data !== '' && upper.index !== '') return upper;
    throw new ConfigError('OBD_CONFIG_VALUE', `The image of "${flags.config}" has no writable layer`, {
      source: flags.config,
    });
  }
  if (data === undefined || flags.index === undefined || flags.config !== undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', 'Name the data file and --index, or an image with --config');
  return { data, index: flags.index };
}
