/**
 * A process that takes a live snapshot and kills itself on the way: `node snapshot-child.js DIR STEP`. DIR has
 * config.json, an image that can be written to, and next.json. It writes {@link CHILD_FILL} to the first half of the disk
 * and flushes it, then takes the snapshot; STEP says after which step it ends, a number of milliseconds when.
 */
import { join } from 'node:path';
import { isWritable } from '../../src/blob/index.js';
import { defaultServiceConfig, ImageOpener } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';

/** Every byte of what the process has flushed. */
export const CHILD_FILL = 0x5a;

const [, script, dir, step] = process.argv;
if (script?.endsWith('snapshot-child.js') === true && dir !== undefined) {
  const opener = new ImageOpener(defaultServiceConfig(silentLogger), silentLogger);
  const image = await opener.open(join(dir, 'config.json'));
  const { blob } = image;
  if (!isWritable(blob)) throw new Error('not writable');
  const half = new Uint8Array(blob.size / 2).fill(CHILD_FILL);
  await blob.write(0, half);
  await blob.flush();
  const end = (): void => {
    process.kill(process.pid, 'SIGKILL');
  };
  if (/^\d+$/.test(step ?? '')) setTimeout(end, Number(step));
  await image.snapshot(join(dir, 'next.json'), {
    replan: async () => undefined,
    quiesce: async () => undefined,
    reached: (now) => {
      if (now === step) end();
    },
  });
  process.exit(3);
}
