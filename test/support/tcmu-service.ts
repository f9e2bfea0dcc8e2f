/**
 * The TCMU front end alone, without the rest of the service: for tests and experiments in a machine of test/vm. Its
 * image configs are those of the product, or `{"raw": "/path/of/a/file"}` with `"planner": true` to let the I/O
 * workers read it. Runs until SIGTERM.
 */
import { readFile } from 'node:fs/promises';
import { FileBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, TcmuFrontEnd } from '../../src/blockdev/index.js';
import { openImage, parseImageConfig } from '../../src/image/index.js';
import { makeLogger } from '../../src/log/index.js';

const log = makeLogger('debug');
const plannerModule = new URL('./tcmu-planner.js', import.meta.url).href;
const workers = new IoWorkers({ logger: log, plannerModule });
const frontEnd = new TcmuFrontEnd({
  workers,
  logger: log,
  openImage: async (configPath) => {
    const text = await readFile(configPath, 'utf8');
    const { raw, planner } = JSON.parse(text) as { raw?: string; planner?: boolean };
    if (raw === undefined) {
      const image = await openImage(parseImageConfig(text, configPath, log), { log });
      return new BlockDevice(image.blob, { planner: image.planner });
    }
    const blob = await FileBlob.open(raw);
    const { fd } = blob.localFile();
    return new BlockDevice(blob, planner === true ? { planner: { fd, piece: 0 } } : {});
  },
});

process.on('SIGTERM', () => {
  void (async () => {
    await frontEnd.close();
    await workers.close();
    process.exit(0);
  })();
});
await frontEnd.start();
process.stdout.write('ready\n');
