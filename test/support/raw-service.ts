/**
 * A TCMU service for raw files, for tests of the front end alone: its image config is `{"raw": "/path/of/a/file"}`,
 * with `"planner": true` to let the I/O workers read it. Runs until SIGTERM.
 */
import { readFile } from 'node:fs/promises';
import { FileBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, TcmuFrontEnd } from '../../src/blockdev/index.js';
import { makeLogger } from '../../src/log/index.js';

const logger = makeLogger('debug');
const workers = new IoWorkers({ logger, plannerModule: new URL('./raw-planner.js', import.meta.url).href });
const frontEnd = new TcmuFrontEnd({
  workers,
  logger,
  openImage: async (configPath) => {
    const { raw, planner } = JSON.parse(await readFile(configPath, 'utf8')) as {
      raw: string;
      planner?: boolean;
    };
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
